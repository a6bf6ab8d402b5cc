import errno
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from fcnseg.data import packed, voc
from fcnseg.data.packed import pack
from fcnseg.data.shapes import shapes

SIZE = 48


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("shapes"), train=12, val=4, seed=0)


@pytest.fixture
def folder(pristine, tmp_path):
    """A data set of this test's own; files keep their times."""
    return voc.VOCFolder(shutil.copytree(pristine.path, tmp_path / "VOC2012"))


def packs(folder):
    """The packs and drafts beside the data set (not the locks)."""
    home = folder.path / "packs"
    return sorted(path.name for path in home.iterdir() if path.is_dir()) if home.exists() else []


def assert_same(one, other):
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.masks, other.masks)
    assert torch.equal(one.label_pixels, other.label_pixels)
    assert (one.names, one.fingerprint) == (other.names, other.fingerprint)


@pytest.fixture
def forbid_building(monkeypatch):
    def forbid():
        monkeypatch.setattr(packed, "_build", lambda *_: pytest.fail("built again"))

    return forbid


def test_pack_is_what_pillow_decodes(folder):
    found = pack(folder, "train", SIZE)
    names = (folder.path / "ImageSets" / "Segmentation" / "train.txt").read_text().split()
    assert found.names == tuple(names)
    assert found.images.shape == (12, SIZE, SIZE, 3)
    assert found.masks.shape == (12, SIZE, SIZE)
    assert found.images.dtype == found.masks.dtype == torch.uint8
    assert found.images.nbytes + found.masks.nbytes == 12 * SIZE * SIZE * 4
    for row, name in enumerate(names):
        image = Image.open(folder.path / "JPEGImages" / f"{name}.jpg").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        mask = Image.open(folder.path / "SegmentationClass" / f"{name}.png").resize((SIZE, SIZE), Image.Resampling.NEAREST)
        assert np.array_equal(found.images[row], np.asarray(image))
        assert np.array_equal(found.masks[row], np.asarray(mask))


def test_class_pixels_are_those_of_the_whole_masks(folder):
    counts = sum(np.bincount(np.asarray(Image.open(folder.mask(n))).ravel(), minlength=256) for n in folder.names("train"))
    found = pack(folder, "train", SIZE).label_pixels
    assert found.tolist() == [*counts[:21].tolist(), counts[255]]
    assert found.dtype == torch.int64
    assert found[-1] > 0
    assert found.sum() > 12 * SIZE * SIZE


def test_the_second_call_reads_the_same_pack(folder, forbid_building):
    first = pack(folder, "train", SIZE)
    forbid_building()
    assert_same(pack(folder, "train", SIZE), first)


def test_every_size_and_image_set_has_a_pack(folder):
    for image_set, size in (("train", SIZE), ("train", 32), ("val", SIZE), ("train", SIZE)):
        assert pack(folder, image_set, size).images.shape == (len(folder.names(image_set)), size, size, 3)
    assert [name.rsplit("-", 1)[0] for name in packs(folder)] == ["train-32", f"train-{SIZE}", f"val-{SIZE}"]


def change_image(folder, name):
    Image.open(folder.image(name)).rotate(180).save(folder.image(name), "JPEG")


def change_mask(folder, name):
    mask = Image.open(folder.mask(name))
    mask.paste(7, (0, 0, mask.width, mask.height // 2))
    mask.save(folder.mask(name))


def change_list(folder, name):
    names = [other for other in folder.names("train") if other != name]
    (folder.path / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names))


def change_order(folder, name):
    (folder.path / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(folder.names("train")[::-1]))


@pytest.mark.parametrize("change", [change_image, change_mask, change_list, change_order])
def test_changed_data_get_another_pack(folder, change):
    before = pack(folder, "train", SIZE)
    change(folder, before.names[3])
    after = pack(folder, "train", SIZE)
    assert after.fingerprint != before.fingerprint
    assert len(packs(folder)) == 2
    name = before.names[4]
    assert torch.equal(after.images[after.names.index(name)], before.images[4])
    assert not (torch.equal(after.images, before.images) and torch.equal(after.masks, before.masks))


def test_a_renamed_image_gets_another_pack(folder):
    before = pack(folder, "train", SIZE)
    folder.image(before.names[0]).rename(folder.image("other"))
    folder.mask(before.names[0]).rename(folder.mask("other"))
    names = ("other", *before.names[1:])
    (folder.path / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names))
    after = pack(folder, "train", SIZE)
    assert after.names == names
    assert after.fingerprint != before.fingerprint
    assert torch.equal(after.images, before.images)


def test_fingerprint_is_of_contents_not_of_times_or_size(folder):
    before = pack(folder, "train", SIZE)
    os.utime(folder.image(before.names[0]), (1, 1))
    assert_same(pack(folder, "train", SIZE), before)
    assert len(packs(folder)) == 2  # the time decides whether to look again
    assert pack(folder, "train", 32).fingerprint == before.fingerprint
    assert pack(folder, "val", SIZE).fingerprint != before.fingerprint


def truncate(folder, name):
    folder.image(name).write_bytes(folder.image(name).read_bytes()[:200])


def other_size(folder, name):
    Image.open(folder.mask(name)).crop((0, 0, 30, 20)).save(folder.mask(name))


def colour(folder, name):
    Image.open(folder.mask(name)).convert("RGB").save(folder.mask(name))


def stray_label(folder, name):
    mask = Image.open(folder.mask(name))
    mask.putpixel((0, 0), 21)
    mask.save(folder.mask(name))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, r"broken image .*{name}\.jpg"),
        (other_size, r"mask .*{name}\.png is 30x20, its image \d+x\d+"),
        (colour, r"mask .*{name}\.png is a picture of mode RGB"),
        (stray_label, r"mask .*{name}\.png holds the labels 21"),
    ],
)
def test_broken_files_are_named_and_leave_nothing_behind(folder, damage, told):
    name = folder.names("train")[5]
    damage(folder, name)
    with pytest.raises(ValueError, match=told.format(name=name)):
        pack(folder, "train", SIZE)
    assert packs(folder) == []
    assert len(pack(folder, "val", SIZE).names) == 4  # the other image set is sound


def test_all_broken_files_are_named_up_to_ten(folder):
    for name in folder.names("train"):
        truncate(folder, name)
    with pytest.raises(ValueError, match=r"and 2 more$") as caught:
        pack(folder, "train", SIZE)
    assert [name for name in folder.names("train") if name in str(caught.value)] == list(folder.names("train")[:10])


def test_missing_files_are_named(folder):
    first, second, *_ = folder.names("train")
    folder.image(first).unlink()
    folder.mask(second).unlink()
    with pytest.raises(ValueError, match=r"2 files of the image set 'train' are missing") as caught:
        pack(folder, "train", SIZE)
    assert str(caught.value).splitlines()[1:] == [str(folder.image(first)), str(folder.mask(second))]
    assert packs(folder) == []


def test_a_disk_too_small_is_told_before_it_is_full(folder, monkeypatch):
    """A mapped file would find out by SIGBUS: tests/faults shows it on a real one."""

    def full(file, start, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ValueError, match="No space left on device; make room there"):
            pack(folder, "train", SIZE)
    assert packs(folder) == []
    assert len(pack(folder, "train", SIZE).names) == 12


def test_what_a_killed_build_left_is_no_pack(folder):
    wanted = pack(folder, "train", SIZE)
    home = next((folder.path / "packs").glob(f"train-{SIZE}-*/"))
    draft = home.rename(home.with_name(f".{home.name}.draft"))
    (draft / "pack.json").unlink()
    (draft / "stray").touch()
    assert_same(pack(folder, "train", SIZE), wanted)
    assert packs(folder) == [home.name]
    assert sorted(path.name for path in home.iterdir()) == ["images.npy", "masks.npy", "pack.json"]


def test_a_read_only_data_set_is_packed_into_the_cache(folder, tmp_path, monkeypatch, forbid_building):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder.path.chmod(0o555)
    try:
        found = pack(folder, "train", SIZE)
        forbid_building()
        assert_same(pack(folder, "train", SIZE), found)
    finally:
        folder.path.chmod(0o755)
    assert packs(folder) == []
    assert len(list((tmp_path / "cache" / "fcnseg" / "packs").glob(f"train-{SIZE}-*/"))) == 1


def test_a_read_only_data_set_of_a_user_without_a_home_wants_a_folder(folder, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where there is none
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=r"read-only, and there is no home: choose a folder for packs with data\.cache="):
        pack(folder, "train", SIZE)


def test_of_several_at_once_one_builds(folder, monkeypatch):
    built = []
    build = packed._build

    def slow(*args):
        built.append(args)
        time.sleep(0.2)
        build(*args)

    monkeypatch.setattr(packed, "_build", slow)
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(lambda _: pack(folder, "train", SIZE), range(3))
    assert len(built) == 1
    for other in others:
        assert_same(other, first)


def test_writing_to_the_tensors_does_not_reach_the_disk(folder):
    first, wanted = pack(folder, "train", SIZE), pack(folder, "train", SIZE)
    first.images.fill_(0)
    first.masks.fill_(21)
    assert_same(pack(folder, "train", SIZE), wanted)
    assert wanted.images.any()


def test_an_array_is_mapped_as_numpy_loads_it(folder):
    pack(folder, "train", SIZE)
    for path in (folder.path / "packs").rglob("*.npy"):
        assert torch.equal(packed.map_array(path), torch.from_numpy(np.load(path)))


def test_a_pack_larger_than_the_memory_opens(tmp_path):
    """A hole in a file: it takes no room on the disk, and every pixel reads as 0."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    images = 2 * memory // (3 * 512**2)
    for name, shape in (("images", (images, 512, 512, 3)), ("masks", (images, 512, 512))):
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.uint8, shape)
    meta = {"ids": [], "class_pixels": [0] * 22, "fingerprint": "", "checksum": 0, "stats": packed._stats(tmp_path)}
    (tmp_path / "pack.json").write_text(json.dumps(meta))
    found = packed._open(tmp_path)
    assert found.images.nbytes + found.masks.nbytes > 2 * memory
    assert not found.images[-1].any()
    found.images[-1].fill_(7)
    assert found.images[-1].all()
    assert not packed._open(tmp_path).images[-1].any()


def test_packs_go_where_the_user_says(folder, tmp_path):
    found = pack(folder, "train", SIZE, cache=tmp_path / "cache" / "mine")
    assert packs(folder) == []
    assert len(list((tmp_path / "cache" / "mine").glob(f"train-{SIZE}-*/"))) == 1
    assert_same(pack(folder, "train", SIZE), found)


def relabel(folder, label):
    """One pixel of a mask, in a file of the same size."""
    path = folder.mask(folder.names("train")[0])
    labels = np.asarray(Image.open(path)).copy()
    labels[0, 0] = label
    Image.fromarray(labels).save(path, compress_level=0)


def darken(folder, value):
    """The last row of a photograph that is stored upside down, so that the end of its file stays, too."""
    path = folder.image(folder.names("train")[0])
    image = Image.open(path).convert("RGB")
    image.paste((value,) * 3, (0, image.height - 1, image.width, image.height))
    image.save(path, "BMP")


@pytest.mark.parametrize("change", [relabel, darken])
def test_data_sets_of_equal_names_sizes_and_times_have_packs_of_their_own(folder, tmp_path, change):
    """As on read-only disks, in Nix and in normalised archives, where every file has one time."""
    other = voc.VOCFolder(shutil.copytree(folder.path, tmp_path / "other"))
    for one, value in ((folder, 1), (other, 2)):
        change(one, value)
        for path in one.path.rglob("*.*"):
            os.utime(path, (1, 1))
    sizes = [[path.stat().st_size for path in sorted(one.path.rglob("*.*"))] for one in (folder, other)]
    assert sizes[0] == sizes[1]
    found = [pack(one, "train", SIZE, cache=tmp_path / "cache").fingerprint for one in (folder, other)]
    assert found[0] != found[1]


def test_content_that_changes_under_an_unchanged_time_gets_another_pack(folder):
    """A disk image that is replaced by the next version of the data set, at the same place."""
    found = []
    for label in (1, 2):
        relabel(folder, label)
        os.utime(folder.mask(folder.names("train")[0]), (1, 1))
        found.append(pack(folder, "train", SIZE).fingerprint)
    assert found[0] != found[1]


def home_of(folder):
    (home,) = (folder.path / "packs").glob(f"train-{SIZE}-*/")
    return home


def zero(path, at):
    """Set a byte to zero in place, as a disk may: the size stays, and a time can be put back."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("file", ["images.npy", "masks.npy"])
@pytest.mark.parametrize("at", [128, -1])
def test_pixels_that_have_changed_on_the_disk_are_noticed(folder, file, at):
    pack(folder, "train", SIZE)
    zero(home_of(folder) / file, at)
    with pytest.raises(ValueError, match=r"is damaged \(its checksum is wrong\): remove this folder"):
        pack(folder, "train", SIZE)
    shutil.rmtree(home_of(folder))
    assert pack(folder, "train", SIZE).images.any()


def test_a_large_pack_is_read_whole_only_if_it_was_written_to(folder, monkeypatch):
    wanted = pack(folder, "train", SIZE)
    monkeypatch.setattr(packed, "READ_WHOLE", 0)
    with monkeypatch.context() as patch:
        patch.setattr(packed, "_checksum", lambda *_: pytest.fail("read"))
        assert_same(pack(folder, "train", SIZE), wanted)
    os.utime(home_of(folder) / "images.npy", (5, 5))  # as a copy that is sound
    assert_same(pack(folder, "train", SIZE), wanted)
    zero(home_of(folder) / "masks.npy", 500)
    os.utime(home_of(folder) / "masks.npy", (5, 5))
    with pytest.raises(ValueError, match="its checksum is wrong"):
        pack(folder, "train", SIZE)


META = {
    "no JSON": "{",
    "empty": "",
    "no keys": "{}",
    "a list": "[]",
    "a number": "3",
    "no text": b"\xff\xfe\x00",
    "other ids": lambda meta: {**meta, "ids": meta["ids"][1:]},
    "other pixels": lambda meta: {**meta, "class_pixels": [1] * 22},
    "pixels of another kind": lambda meta: {**meta, "class_pixels": None},
    "another fingerprint": lambda meta: {**meta, "fingerprint": "0"},
}


@pytest.mark.parametrize("content", META.values(), ids=META)
def test_a_damaged_description_of_a_pack_is_named(folder, content):
    pack(folder, "train", SIZE)
    path = home_of(folder) / "pack.json"
    if callable(content):
        content = json.dumps(content(json.loads(path.read_text())))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"the pack .*packs/train-48-\w+ is damaged \(.*\): remove this folder"):
        pack(folder, "train", SIZE)


@pytest.mark.parametrize("file", ["images.npy", "masks.npy"])
@pytest.mark.parametrize("harm", ["cut", "empty", "gone", "reshaped"])
def test_damaged_arrays_are_named(folder, file, harm):
    pack(folder, "train", SIZE)
    path = home_of(folder) / file
    if harm == "reshaped":
        array = np.load(path)
        np.save(path, array.reshape(array.shape[1], array.shape[0], *array.shape[2:]))
    elif harm == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1 if harm == "cut" else 0)
    with pytest.raises(ValueError, match=r"the pack .* is damaged \(.*\): remove this folder"):
        pack(folder, "train", SIZE)


def test_without_sched_getaffinity(folder, monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert len(pack(folder, "train", SIZE).names) == 12


def test_a_grey_mask_is_resized_to_labels_that_it_has(folder):
    """Bilinear, a border between labels 1 and 15 would become labels of other classes."""
    for name in folder.names("train"):
        width, height = Image.open(folder.image(name)).size
        labels = np.ones((height, width), dtype=np.uint8)
        labels[::3, ::2] = 15
        Image.fromarray(labels).save(folder.mask(name))
    assert pack(folder, "train", SIZE).masks.unique().tolist() == [1, 15]


def test_masks_that_are_read_by_their_colours_are_said(folder, capsys):
    wanted = pack(folder, "train", SIZE)
    for name in folder.names("train")[:3]:
        mask = Image.open(folder.mask(name))
        Image.fromarray(voc.PALETTE[np.asarray(mask)]).quantize(32).save(folder.mask(name))
    capsys.readouterr()
    found = pack(folder, "train", SIZE)
    assert "3 of 12 masks hold the classes' colours at other indices: they are read by their colours" in capsys.readouterr().err
    assert torch.equal(found.masks, wanted.masks)
    assert torch.equal(found.label_pixels, wanted.label_pixels)
