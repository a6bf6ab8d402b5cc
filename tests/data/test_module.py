import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from fcnseg import build
from fcnseg.data import loader, voc
from fcnseg.data import module as data_module
from fcnseg.data.augment import Chain, Flip, draws, partners
from fcnseg.data.batch import denormalize, normalize
from fcnseg.data.dataset import VOID
from fcnseg.data.loader import Loader
from fcnseg.data.mixing import ClassMix, CutMix
from fcnseg.data.module import DataModule
from fcnseg.data.settings import sides
from fcnseg.data.shapes import shapes
from fcnseg.data.transforms import Crop

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("shapes"), train=24, val=8, seed=0)


@pytest.fixture
def make(folder):
    def made(source=lambda root: folder, **changes):
        settings = {"split": "official", "size": SIZE, "batch_size": 10, "augment": Chain(), "seed": 0} | changes
        module = DataModule("anywhere", source=source, **settings)
        module.prepare_data()
        module.setup()
        return module

    return made


@pytest.fixture
def listing(folder, tmp_path):
    """Makes the data set with another list of its val images."""

    def made(*numbers):
        other = voc.VOCFolder(shutil.copytree(folder.path, tmp_path / "VOC2012"))
        names = "".join(f"shapes_{number:06d}\n" for number in numbers)
        (other.path / "ImageSets" / "Segmentation" / "val.txt").write_text(names)
        return lambda root: other

    return made


def at(module, step, *, training=True, epoch=0):
    module.trainer = SimpleNamespace(training=training, current_epoch=epoch, global_step=step)
    return module


def samples(module, step=0):
    """What is left of the epoch after `step` batches of the run, in order."""
    return torch.cat([batch.sample for batch in at(module, step).train_dataloader()]).tolist()


def test_batches_from_the_loader(make):
    module = make()
    loader = module.train_dataloader()
    batches = list(loader)
    assert [len(batch.image) for batch in batches] == [10, 10, 4]
    assert len(loader) == 3
    for image, mask, sample in batches:
        n = len(sample)
        assert (image.shape, mask.shape, sample.shape) == ((n, 3, SIZE, SIZE), (n, SIZE, SIZE), (n,))
        assert (image.dtype, mask.dtype, sample.dtype) == (torch.uint8, torch.uint8, torch.int64)
        assert image.is_contiguous(memory_format=torch.channels_last)
        pack = module.packs["train"]
        assert torch.equal(image.permute(0, 2, 3, 1), pack.images[sample])
        assert torch.equal(mask, pack.masks[sample])


@pytest.mark.parametrize("training", [True, False])
def test_batches_on_the_device(make, training):
    module = at(make(augment=Flip()), 0, training=training)
    batch = next(iter(module.train_dataloader()))
    image, mask, sample = module.on_after_batch_transfer(batch, 0)
    assert (image.dtype, mask.dtype) == (torch.float32, torch.uint8)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(sample, batch.sample)


def test_the_loader_is_not_changed_by_what_the_device_does(make):
    module = at(make(augment=Flip(horizontal=1)), 0)
    before = module.packs["train"].images.clone()
    for batch in module.train_dataloader():
        module.on_after_batch_transfer(batch, 0)
    assert torch.equal(module.packs["train"].images, before)


@pytest.mark.parametrize("trainer", [None, SimpleNamespace(training=False, current_epoch=0)])
def test_nothing_but_training_is_augmented(make, trainer):
    module = make(augment=lambda *_: pytest.fail("augmented"))
    module.trainer = trainer
    batch = next(iter(module.val_dataloader()))
    image, mask, _ = module.on_after_batch_transfer(batch, 0)
    assert torch.equal(image, normalize(batch.image))
    assert torch.equal(mask, batch.mask)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 3), (5, 0)])
def test_training_is_augmented_by_seed_epoch_and_sample(make, seed, epoch):
    module = make(augment=Flip(), seed=seed)
    batch = next(iter(module.train_dataloader()))
    image, mask, _ = at(module, 0, epoch=epoch).on_after_batch_transfer(batch, 0)
    wanted = Flip()(batch.image, batch.mask, draws(seed, epoch, batch.sample))
    assert torch.equal(denormalize(image), wanted[0])
    assert torch.equal(mask, wanted[1])
    assert not torch.equal(mask, batch.mask)


def test_an_epoch_is_a_permutation_of_its_own(make):
    epochs = [samples(make(seed=seed), step) for seed in (0, 1) for step in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6


def test_the_order_depends_on_seed_and_epoch_alone(make):
    wanted = samples(make(), 3)
    torch.manual_seed(99)
    assert samples(make(augment=Flip()), 3) == wanted
    assert samples(make(batch_size=1), 24) == wanted  # the same epoch in other batches


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("done", [1, 2])
def test_a_run_resumed_in_mid_epoch_gets_the_rest(make, epoch, done):
    module = make()
    assert samples(module, 3 * epoch + done) == samples(module, 3 * epoch)[10 * done :]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_is_in_the_files_order_whatever_the_step(make, folder, stage):
    module = at(make(batch_size=5), 7)
    batches = list(getattr(module, f"{stage}_dataloader")())
    names = [name for batch in batches for name in module.names(stage, batch.sample)]
    assert names == list(folder.names("val"))
    assert torch.equal(torch.cat([batch.mask for batch in batches]), module.packs["val"].masks)


def test_official_split(make):
    module = make()
    assert [module.count(stage) for stage in ("train", "val", "test")] == [24, 8, 8]
    assert module.names("train", torch.tensor([0, 23])) == ["shapes_000000", "shapes_000023"]
    assert module.names("val", torch.tensor([7, 0])) == ["shapes_000031", "shapes_000024"]
    assert len(module.classes) == 21
    *labelled, void = module.packs["train"].label_pixels.tolist()
    assert module.class_pixels.tolist() == [labelled[0] + void, *labelled[1:]]
    assert module.fingerprint == f"{module.packs['train'].fingerprint}-{module.packs['val'].fingerprint}"


@pytest.mark.parametrize("order", [range(24, 31), range(30, 23, -1)])
def test_halves_are_fixed_by_the_names(make, listing, order):
    """The SHA-256 of names 24 to 30 sorts them as 30, 28, 29, 26 | 27, 25, 24; each half keeps the file's order."""
    module = make(listing(*order), split="halves")
    halves = {
        stage: [int(name[-2:]) for name in module.names(stage, torch.cat([batch.sample for batch in loader]))]
        for stage, loader in (("val", module.val_dataloader()), ("test", module.test_dataloader()))
    }
    wanted = {"val": {26, 28, 29, 30}, "test": {24, 25, 27}}
    assert halves == {stage: [number for number in order if number in half] for stage, half in wanted.items()}
    assert [module.count(stage) for stage in ("train", "val", "test")] == [24, 4, 3]


def test_a_data_set_is_prepared_once(make, folder):
    calls = []

    def source(root):
        calls.append(str(root))
        return folder

    module = make(source)
    packs = module.packs
    module.prepare_data()
    module.setup("test")
    assert calls == ["anywhere"]
    assert module.packs is packs


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"split": "thirds"}, "data.split=thirds: wanted one of official, halves"),
        ({"size": 31}, "data.size=31: wanted .* from 32 up"),
        ({"size": 32.0}, "data.size=32.0: wanted a whole number from 32 up"),
        ({"batch_size": 0}, "data.batch_size=0: wanted .* from 1 up"),
        ({"batch_size": 25}, "data.batch_size=25 is larger than train's 24 images"),
        ({"limit": 25}, "data.limit=25: train has 24 images; lower it, or null for all"),
        ({"limit": 0}, "data.limit=0: wanted a whole number from 1 up"),
        ({"limit": 9}, "data.batch_size=10 is larger than train's 9 images"),
        ({"limit": "all"}, "data.limit=all: wanted a whole number"),
    ],
)
def test_settings_out_of_range(make, changes, told):
    with pytest.raises(ValueError, match=told):
        make(**changes)


def test_the_greatest_settings_in_range(make):
    assert len(make(batch_size=24, size=32).train_dataloader()) == 1


def test_one_image_has_no_halves(make, listing):
    source = listing(24)
    with pytest.raises(ValueError, match=r"data\.split=halves: val has 1 image, wanted 2 or more"):
        make(source, split="halves")
    assert make(source).count("val") == 1


def test_a_single_image_left_over_joins_the_batch_before_it(make):
    packed = make().packs["train"]
    sizes = lambda n, batch_size, seed: [  # noqa: E731
        len(batch.mask) for batch in Loader(packed, torch.arange(n), batch_size=batch_size, seed=seed, step=lambda: 0)
    ]
    assert sizes(9, 4, 0) == [4, 5]
    assert sizes(9, 4, None) == [4, 4, 1]  # validation trains no batch norm
    assert sizes(3, 1, 0) == [1, 1, 1]


@pytest.mark.parametrize(("size", "pack_size"), [(32, 64), ([32, 40], [64, 40]), (32, [48, 64])])
def test_a_pack_larger_than_the_training_size(make, size, pack_size):
    crop = Crop(size=size, scale=[1, 1], aspect=[1, 1], degrees=0)
    usual, larger, cropped = make(size=size), *(make(size=size, pack_size=pack_size, augment=a) for a in (Flip(), crop))
    wanted = sides(pack_size)
    raw = next(iter(at(larger, 0).train_dataloader()))
    assert (raw.image.shape[2:], raw.mask.shape[1:]) == (wanted, wanted)
    for module in (larger, cropped):
        for training in (True, False):
            made = at(module, 0, training=training).on_after_batch_transfer(raw, 0)
            assert (made.image.shape[2:], made.mask.shape[1:]) == (sides(size),) * 2
            assert made.image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(larger.packs["val"].images, usual.packs["val"].images)  # which is scored as before
    assert larger.fingerprint == usual.fingerprint
    assert torch.equal(larger.class_pixels, usual.class_pixels)


def test_what_no_crop_brings_to_the_size_is_resized_as_packs_are(make):
    usual, larger = make(), make(pack_size=64)
    batches = [next(iter(at(module, 0).train_dataloader())) for module in (usual, larger)]
    wanted, found = (usual.on_after_batch_transfer(batch, 0) for batch in batches)
    known = (denormalize(found.image).int() - denormalize(wanted.image).int()).abs().float()
    assert known.mean() < 6  # resized twice
    assert (found.mask == wanted.mask).float().mean() > 0.9
    assert {*found.mask.unique().tolist()} <= {*larger.packs["train"].masks.unique().tolist()}


@pytest.mark.parametrize(
    ("size", "pack_size", "told"),
    [
        (64, 48, r"data.pack_size=48 is smaller than data.size=64: raise it, or null"),
        (64, [64, 48], r"data.pack_size=\[64, 48\] is smaller than data.size=64"),
        ([32, 64], 48, r"data.pack_size=48 is smaller than data.size=\[32, 64\]"),
        (64, "large", "data.pack_size=large: wanted a whole number from 32 up"),
        (64, [64, 64, 3], r"data.pack_size=\[64, 64, 3\]: wanted a whole number"),
    ],
)
def test_packs_of_no_good_size(make, size, pack_size, told):
    with pytest.raises(ValueError, match=told):
        make(size=size, pack_size=pack_size)


def test_a_limit_takes_some_of_the_train_images_and_leaves_the_rest(make):
    subsets = [make(limit=limit).names("train") for limit in (10, 12, 23, 24, None)]
    assert [len(names) for names in subsets] == [10, 12, 23, 24, 24]
    for fewer, more in pairwise(subsets):
        assert fewer == [name for name in more if name in fewer]  # nested, and in the list's order
    module = make(limit=10)
    assert [module.count(stage) for stage in ("val", "test")] == [8, 8]
    assert module.class_pixels.sum() < make().class_pixels.sum()
    assert module.fingerprint != make().fingerprint
    assert module.fingerprint.split("-")[1] == make().fingerprint.split("-")[1]


def test_a_limit_chooses_by_the_names_alone(make, folder, tmp_path):
    """Pinned: the three names whose SHA-256 are least, so that no version of this package changes a subset."""
    pinned = ["shapes_000002", "shapes_000004", "shapes_000007"]
    assert make(limit=3, batch_size=2).names("train") == pinned
    other = voc.VOCFolder(shutil.copytree(folder.path, tmp_path / "VOC2012"))
    (other.path / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(folder.names("train")[::-1]))
    assert make(lambda root: other, limit=3, batch_size=2).names("train") == pinned[::-1]


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((24, 25, 24), "lists shapes_000024 2 times, wanted once"),
        ((24, 3), "lists shapes_000003, which train lists too"),
    ],
)
def test_an_image_that_is_listed_twice_is_refused(make, listing, numbers, told):
    with pytest.raises(ValueError, match=rf"more than once.*\nval {told}$"):
        make(listing(*numbers))


def test_folders_of_the_user_s_home(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    module = DataModule(
        "~/voc",
        source=lambda root: folder,
        split="official",
        size=32,
        batch_size=2,
        augment=Chain(),
        seed=0,
        cache="~/p",
    )
    assert module.root == tmp_path / "voc"
    module.prepare_data()
    assert len(list((tmp_path / "p").glob("*-32-*/"))) == 2


def test_what_has_changed_since_a_fingerprint(make):
    module = make()
    train, val = module.fingerprint.split("-")
    assert module.changed_since(module.fingerprint) is None
    for then, changed in ((f"{train}-0", "val"), (f"0-{val}", "train"), ("0-0", "train and val")):
        told = f"the images or masks of {changed} have changed since it was trained ({then} then, {train}-{val} now)"
        assert module.changed_since(then) == told


def test_where_the_packs_are_is_said_once(make, folder, tmp_path, capsys):
    own = voc.VOCFolder(shutil.copytree(folder.path, tmp_path / "VOC2012", ignore=lambda *_: ["packs"]))
    make(lambda root: own)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"kept, decoded and resized, in {own.path / 'packs'}; data.cache=<folder> chooses another place" in told
    make(lambda root: own, size=48)
    shutil.rmtree(own.path / "packs")
    make(lambda root: own, cache=str(tmp_path / "cache"))  # where the user has said
    make(lambda root: voc.VOCFolder(own.path, generated=True))
    assert capsys.readouterr().err == ""


@pytest.fixture
def part_of(monkeypatch):
    """`part_of(module, rank, world)`: the training batches of one of several processes, as they are on its device."""

    def part_of(module, rank, world):
        monkeypatch.setattr(loader, "rank", lambda: rank)
        for each in (loader, data_module):
            monkeypatch.setattr(each, "world", lambda: world)
        return [module.on_after_batch_transfer(batch, 0) for batch in at(module, 0).train_dataloader()]

    return part_of


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("augment", [Flip(), CutMix(p=1), Chain(cut=CutMix(p=1), flip=Flip(), mix=ClassMix(p=1))])
def test_parts_of_a_batch_are_augmented_as_the_whole(make, part_of, world, augment):
    module = make(augment=augment)
    whole = part_of(module, 0, 1)
    parts = [part_of(module, rank, world) for rank in range(world)]
    for batch, *shared in zip(whole, *parts, strict=True):
        for value, *own in zip(batch, *shared, strict=True):
            assert torch.equal(torch.cat(own), value)


def test_a_process_without_an_image_is_lent_one_that_does_not_count(make, part_of):
    module = make(batch_size=11)  # 24 images: 11, 11 and 2
    last = [part_of(module, rank, 3)[-1] for rank in range(3)]
    assert [len(batch.mask) for batch in last] == [1, 1, 1]
    assert [bool((batch.mask == VOID).all()) for batch in last] == [True, False, False]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_batches_to_be_scored_are_dealt_out_whole(make, monkeypatch, world):
    module = make(batch_size=2)  # 8 images to score on: four batches
    wanted = [batch.sample.tolist() for batch in module.val_dataloader()]
    monkeypatch.setattr(loader, "world", lambda: world)
    dealt = []
    for rank in range(world):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        dealt.append([batch.sample.tolist() for batch in module.val_dataloader()])
        assert len(dealt[-1]) == len(module.val_dataloader())
    assert [batch for turn in zip(*dealt, strict=True) for batch in turn][:4] == wanted


def test_two_steps_that_mix_need_two_images(compose):
    steps = ["aug=none", "+aug@aug.a=cutmix", "+aug@aug.b=classmix"]
    assert partners(build.data(compose("data=shapes", "data.batch_size=2", *steps)).augment) == 2
