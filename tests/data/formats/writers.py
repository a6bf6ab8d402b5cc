"""The sample in every format that `data=folder` reads: each function writes it into a folder."""

import base64
import csv
import io
import json
import random

import numpy as np
from PIL import Image

from fcnseg.data import voc
from fcnseg.data.dataset import VOID

YAML = "names: [" + ", ".join(voc.CLASSES) + "]\n"
COLOURS = {name: voc.PALETTE[i].tolist() for i, name in enumerate(voc.CLASSES)}
BRIGHT = np.random.default_rng(7).permutation(2**24)[:256]  # a colour of its own for every label, dark ones and light ones
BRIGHT = np.stack([BRIGHT >> 16, BRIGHT >> 8 & 255, BRIGHT & 255], axis=1)


def lists(sample, root, **mask):
    voc.new_folder(root, sample.sets)
    for name in sample.names:
        sample.photograph(name, root / "JPEGImages" / f"{name}.jpg")
        sample.mask(name, root / "SegmentationClass" / f"{name}.png", **mask)


def voc_layout(sample, root):
    lists(sample, root)
    (root / "classes.yaml").write_text(YAML)


def voc_layout_of_colours(sample, root):
    lists(sample, root, colours=BRIGHT)
    text = "".join(f"  {name}: {BRIGHT[i].tolist()}\n" for i, name in enumerate(voc.CLASSES))
    (root / "classes.yaml").write_text(f"{YAML}colors:\n{text}void: '#{bytes(BRIGHT[VOID].tolist()).hex()}'\n")


def voc_layout_of_16_bits(sample, root):
    values = np.arange(256, dtype=np.uint16) * 250 + 7
    lists(sample, root, values=values)
    text = "".join(f"  {values[i]}: {name}\n" for i, name in enumerate(voc.CLASSES))
    (root / "classes.yaml").write_text(f"names:\n{text}void: {values[VOID]}\n")


def labels_from_one(sample, root):
    """Void is 0, as after "reduce zero label"."""
    lists(sample, root, values=(np.arange(256) + 1).astype(np.uint8))
    text = "".join(f"  {i + 1}: {name}\n" for i, name in enumerate(voc.CLASSES))
    (root / "classes.yaml").write_text(f"{YAML}map:\n{text}  0: void\n")


def palette_in_another_order(sample, root):
    order = random.Random(0).sample(range(256), 256)
    place = np.argsort(order).astype(np.uint8)
    lists(sample, root)
    for name in sample.names:
        mask = Image.fromarray(place[sample.labels[name]]).convert("P")
        mask.putpalette(voc.PALETTE[order].tobytes())
        mask.save(root / "SegmentationClass" / f"{name}.png")
    colours = "".join(f"  {name}: {colour}\n" for name, colour in COLOURS.items())
    (root / "classes.yaml").write_text(f"{YAML}colors:\n{colours}void: {voc.PALETTE[VOID].tolist()}\n")


def folders(sample, root):
    for name in sample.names:
        sample.photograph(name, root / "images" / f"{name}.jpg")
        sample.mask(name, root / "masks" / f"{name}.png")
    (root / "classes.yaml").write_text(YAML)


def folders_of_sets(sample, root, image="{}/images/{}.jpg", mask="{}/masks/{}.png"):
    for image_set, names in sample.sets.items():
        for name in names:
            sample.photograph(name, root / image.format(image_set, name))
            sample.mask(name, root / mask.format(image_set, name))
    (root / "classes.yaml").write_text(YAML)


def folders_of_mmsegmentation(sample, root):
    folders_of_sets(sample, root, "img_dir/{}/{}.jpg", "ann_dir/{}/{}.png")


def folders_of_cityscapes(sample, root):
    folders_of_sets(sample, root, "leftImg8bit/{}/town/{}_leftImg8bit.jpg", "gtFine/{}/town/{}_gtFine_labelIds.png")
    for name in sample.sets["val"]:  # other masks of the same images
        sample.mask(name, root / "gtFine" / "val" / "town" / f"{name}_gtFine_color.png", colours=voc.PALETTE)


def one_folder(sample, root):
    folders_of_sets(sample, root, "{}/{}.jpg", "{}/{}_label.png")


def cvat(sample, root, **mask):
    lists(sample, root, **({"colours": voc.PALETTE} | mask))
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("\n".join(sample.names))
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in COLOURS.items()]
    void = ",".join(map(str, voc.PALETTE[VOID].tolist()))
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines, f"void:{void}::"]))


def cvat_of_palettes(sample, root):
    cvat(sample, root, colours=None)


def labelme2voc(sample, root):
    for name in sample.names:
        sample.photograph(name, root / "JPEGImages" / f"{name}.jpg")
        sample.mask(name, root / "SegmentationClass" / f"{name}.png")
    names = ["__ignore__", "_background_", *voc.CLASSES[1:]]
    (root / "class_names.txt").write_text("\n".join(names))


def table(sample, root):
    with (root / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "split"])
        for image_set, names in sample.sets.items():
            for i, name in enumerate(names):
                image, mask = f"photos/{i % 3}/{name}.jpg", f"drawn/{name}.tif"
                rows.writerow([image, mask, image_set])
                sample.photograph(name, root / image)
                sample.mask(name, root / mask, values=np.arange(256, dtype=np.uint8))
    (root / "classes.yaml").write_text(YAML)


def roboflow(sample, root):
    for image_set, names in sample.sets.items():
        folder = root / {"val": "valid"}.get(image_set, image_set)
        for name in names:
            sample.photograph(name, folder / f"{name}.jpg")
            sample.mask(name, folder / f"{name}_mask.png", values=np.arange(256, dtype=np.uint8))
        rows = "".join(f"{i}, {name}\n" for i, name in enumerate(voc.CLASSES))
        (folder / "_classes.csv").write_text(f"Pixel Value, Class\n{rows}")


def rows_of(inside):
    """A rectangle [x, y, width, height] for every run of pixels in every row."""
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return [(x, y, end - x, 1) for (y, x), (_, end) in zip(begins.tolist(), ends.tolist(), strict=True)]


def outlines(inside):
    return [[x, y, x + w, y, x + w, y + h, x, y + h] for x, y, w, h in rows_of(inside)]


def run_lengths(inside):
    flat = inside.T.ravel().astype(np.int8)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return np.diff([0, *changes, flat.size]).tolist()


def as_text(counts):
    """COCO's text of run lengths: written from the description of `rleToString` in its `maskApi.c`."""
    text = ""
    for i, count in enumerate(counts):
        value, more = count - counts[i - 2] if i > 2 else count, True
        while more:
            bits, value = value & 31, value >> 5
            more = value != -1 if bits & 16 else value != 0
            text += chr((bits | 32 if more else bits) + 48)
    return text


def segmentation(inside, kind):
    if kind % 3 == 0:
        return outlines(inside)
    counts = run_lengths(inside)
    return {"counts": counts if kind % 3 == 1 else as_text(counts), "size": list(inside.shape)}


def coco(sample, root):
    for image_set, names in sample.sets.items():
        content = {"images": [], "annotations": [], "categories": []}
        content["categories"] = [{"id": 10 * i, "name": name} for i, name in enumerate(voc.CLASSES) if i]
        content["categories"].append({"id": 999, "name": "void"})
        for i, name in enumerate(names):
            labels = sample.labels[name]
            height, width = labels.shape
            content["images"].append({"id": i, "file_name": f"{name}.jpg", "width": width, "height": height})
            sample.photograph(name, root / f"{image_set}2017" / f"{name}.jpg")
            everything = {"image_id": i, "category_id": 10, "segmentation": segmentation(labels >= 0, i)}
            content["annotations"].append(everything | {"segmentation": segmentation(labels > 0, i)})
            for kind, label in enumerate(np.unique(labels[labels > 0]).tolist()):  # on top of it
                category = 999 if label == VOID else 10 * label
                shape = segmentation(labels == label, i + kind)
                content["annotations"].append({"image_id": i, "category_id": category, "segmentation": shape})
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{image_set}2017.json").write_text(json.dumps(content))


def as_shapes(inside, kind):
    if kind % 3 == 0:
        return [{"shape_type": "polygon", "points": np.reshape(flat, (-1, 2)).tolist()} for flat in outlines(inside)]
    if kind % 3 == 1:
        corners = [[[x, y], [x + w, y + h]] for x, y, w, h in rows_of(inside)]
        return [{"shape_type": "rectangle", "points": points} for points in corners]
    y, x = np.nonzero(inside)
    part = inside[y.min() : y.max() + 1, x.min() : x.max() + 1]
    Image.fromarray(part).save(buffer := io.BytesIO(), "PNG")
    points = [[int(x.min()), int(y.min())], [int(x.max()), int(y.max())]]
    return [{"shape_type": "mask", "points": points, "mask": base64.b64encode(buffer.getvalue()).decode()}]


def labelme(sample, root):
    for name in sample.names:
        labels = sample.labels[name]
        sample.photograph(name, root / f"{name}.jpg")
        shapes = [
            {"label": "__ignore__" if label == VOID else voc.CLASSES[label], **shape}
            for kind, label in enumerate(np.unique(labels[labels > 0]).tolist())
            for shape in as_shapes(labels == label, kind)
        ]
        content = {"shapes": shapes, "imageHeight": labels.shape[0], "imageWidth": labels.shape[1]}
        (root / f"{name}.json").write_text(json.dumps({"version": "5.4", "imagePath": f"{name}.jpg", **content}))


FORMATS = {  # and what check says of each
    voc_layout: "VOC's layout, by ImageSets/Segmentation",
    voc_layout_of_colours: "VOC's layout, by ImageSets/Segmentation",
    voc_layout_of_16_bits: "VOC's layout, by ImageSets/Segmentation",
    labels_from_one: "VOC's layout, by ImageSets/Segmentation",
    palette_in_another_order: "VOC's layout, by ImageSets/Segmentation",
    folders: "images and masks, by the folders images and masks",
    folders_of_sets: "images and masks, by the folders train/images and train/masks",
    folders_of_mmsegmentation: "images and masks, by the folders img_dir/train and ann_dir/train",
    folders_of_cityscapes: "images and masks, by the folders leftImg8bit/train and gtFine/train",
    one_folder: "images and masks, by names in the folder train",
    cvat: "CVAT's Segmentation mask 1.1, by labelmap.txt and ImageSets/Segmentation",
    cvat_of_palettes: "CVAT's Segmentation mask 1.1, by labelmap.txt and ImageSets/Segmentation",
    labelme2voc: "labelme2voc's output, by class_names.txt and the folders JPEGImages and SegmentationClass",
    table: "a table of images and masks, by pairs.csv",
    roboflow: "Roboflow's masks, by _classes.csv and names in the folder train",
    coco: "COCO's annotations, by annotations/instances_train2017.json",
    labelme: "labelme's JSON files, by shapes_000000.json",
}
SETTINGS = {
    folders_of_cityscapes: {"image_suffix": "_leftImg8bit", "mask_suffix": "_gtFine_labelIds"},
}
