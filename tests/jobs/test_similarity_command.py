"""The commands `similarity` and `bias`, from workdirs and folders to tables and page, and their messages."""

import csv
import dataclasses
import xml.dom.minidom

import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image
from short_runs import config, stage

from aiseeme_jax import augment, data, models, weights
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evidence import networks
from aiseeme_jax.evidence.networks import PIXELS, Layer
from aiseeme_jax.evidence.similarity import cka
from aiseeme_jax.jobs import bias, curriculum, similarity
from aiseeme_jax.jobs.arms import list_arms, list_ceilings
from aiseeme_jax.report.heatmap import draw_heatmap
from aiseeme_jax.search import gains

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")


@pytest.fixture(scope="module")
def backbones():
    with pytest.MonkeyPatch.context() as patch:
        tiny.tiny_in_the_table.__wrapped__(patch)
        make = models.make_backbone
        yield {f"net {s}": make("tiny", width=0.125, stem="small", rngs=nnx.Rngs(s)) for s in (0, 1)}


def views(size=tiny.SIZE):
    return augment.make_views("natural", size)


def test_networks_are_compared_on_all_their_layers(backbones):
    split = tiny.split(24)
    found = networks.compare_networks(backbones, split, views=views(), batch_size=100)
    assert found.networks == ["net 0", "net 1", PIXELS] and found.images == 24
    assert found.endpoints() == ["stem", "stage1", "stage2", "stage3", "stage4", "pooled"]
    one, other = Layer("net 0", "pooled"), Layer("net 1", "pooled")
    between = found.cka_between([one], [other])[0, 0]
    assert between == pytest.approx(cka(found.features[one], found.features[other]), abs=1e-4)
    assert np.diag(found.cka) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="there are 3 images"):
        networks.compare_networks(backbones, split.subset(np.arange(3)), views=views(), batch_size=100)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_command_compares_the_arms_of_runs(tmp_path, capsys, monkeypatch):
    tiny.use_devices(monkeypatch, 8)
    stages = (stage("rotation", 2), stage("npid", 2))
    for seed in (0, 1):
        curriculum.run(config(stages, seed=seed, baselines=("scratch", "single")), tmp_path / str(seed))
    runs = [str(tmp_path / "0"), str(tmp_path / "1")]
    # There are 8 images in a batch of 8 devices; the other lesions are left over.
    with pytest.raises(UserError, match="8 images of different lesions or patients, .* needs 12"):
        similarity.main([*runs, "--measure", "all"])
    measures = "rbf_cka,svcca,pwcca,rsa,procrustes"
    similarity.main([*runs, "--measure", measures, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 100
    assert any("Ceiling: the same arm with another seed" in line for line in lines)
    rows = read(tmp_path / "out" / "similarity.csv")
    assert {row["measure"] for row in rows} == {"cka", *measures.split(",")}
    assert {"0: curriculum", "1: single:npid", "random weights, seed 0", PIXELS} <= {row["network_b"] for row in rows}
    assert all(row["null"] for row in rows)
    same = [row for row in rows if row["measure"] == "cka" and row["network_a"] == row["network_b"]]
    assert {float(row["value"]) for row in same if row["endpoint_a"] == row["endpoint_b"]} == {1.0}
    lie = read(tmp_path / "out" / "geometry.csv")
    pooled = [row for row in lie if row["endpoint"] == "pooled"]
    assert pooled and all(row["alignment"] and float(row["twonn"]) > 0 for row in pooled)
    costs = {row["network"]: row["pretraining_images"] for row in pooled}
    assert costs["0: curriculum"] and not costs["random weights, seed 0"]
    page = (tmp_path / "out" / "similarity.html").read_text()
    assert "biased estimate, which is not shown" in page and "near copies destroy it" in page
    assert "far above 0 for independent features" in page and "src=" not in page


@pytest.mark.slow
def test_arms_and_their_ceilings(tmp_path):
    for seed in (0, 1):
        curriculum.run(config((stage("rotation", 2),), seed=seed, targets=()), tmp_path / str(seed))
    arms, missing = list_arms([tmp_path / "0", tmp_path / "1"])
    assert [arm.seed for arm in arms] == [0, 1] and missing == []
    assert list_ceilings(arms) == [("0: curriculum", "1: curriculum")]
    assert list_ceilings([arms[0], dataclasses.replace(arms[1], recipe="{}")]) == []
    with pytest.raises(UserError, match="no arm 'swav': there are 0: curriculum"):
        list_arms([tmp_path / "0", tmp_path / "1"], ["swav"])
    with pytest.raises(UserError, match="measures nothing on 'arrays'|measures nothing on"):
        similarity.main([str(tmp_path / "0")])


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(UserError, match="no measure 'ckka': there are cka, rbf_cka"):
        similarity.main([str(tmp_path), "--measure", "ckka"])
    with pytest.raises(MissingFile, match="no run was begun in"):
        similarity.main([str(tmp_path)])
    with pytest.raises(UserError, match="--images is 3: CKA needs at least 4"):
        similarity.main([str(tmp_path), "--images", "3"])


def test_a_heat_map_writes_its_numbers():
    drawn = draw_heatmap(np.array([[1.0, np.nan], [-0.004, 0.256]]), ["a", "<b>"], ["c", "d"], label="x & y")
    parsed = xml.dom.minidom.parseString(drawn)
    texts = [node.firstChild.data for node in parsed.getElementsByTagName("text") if node.firstChild.nodeType == 3]
    assert texts[-4:] == ["1.00", "–", ".00", ".26"]
    shares = [node.getAttribute("style") for node in parsed.getElementsByTagName("rect")]
    assert shares == ["--share:100%", "--share:0%", "--share:0%", "--share:26%"]


@pytest.mark.slow
def test_similarity_that_predicts_gains_is_found():
    names = "abcdef"
    place = {name: i for i, name in enumerate(names)}
    similar = {(one, other): 1 / (1 + abs(place[one] - place[other])) for one in names for other in names}
    pairs = [
        gains.Pair(one, other, similar[one, other], 2 * similar[one, other], 0.1)
        for one, other in similar
        if one != other
    ]
    found = gains.correlate(similar, pairs, seed=0)
    assert found.value == pytest.approx(1) and found.n == 30
    # Reversing the names changes no similarity: of 720 ways to rename, two are as good.
    assert found.p == pytest.approx(2 / 720)
    noise = np.random.default_rng(0).permutation(30) / 30
    noisy = [dataclasses.replace(pair, gain=noise[i]) for i, pair in enumerate(pairs)]
    null = gains.correlate(similar, noisy, seed=0)
    assert null.low < 0 < null.high and null.p > 0.05
    assert "do not show that similarity predicts" in gains.describe_correlation(null)


@pytest.fixture
def concepts(tmp_path):
    """Red things with red attributes, green ones with green attributes."""
    random = np.random.default_rng(0)
    for name, channel, count in (("x", 0, 5), ("y", 1, 5), ("a", 0, 3), ("b", 1, 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            image = random.integers(0, 40, (20, 16, 3), np.uint8)
            image[..., channel] += 180
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    (tmp_path / "tests.csv").write_text("name,x,y,a,b\ncolours,x,y,a,b\nother way,y,x,a,b\n")
    return tmp_path


def test_the_command_finds_what_colours_bring_together(concepts, backbones, capsys):
    weights.export_backbone(backbones["net 0"], concepts / "net.safetensors")
    bias.main([str(concepts), "--backbone", str(concepts / "net.safetensors"), "--size", "16"])
    rows = {(row["network"], row["test"]): row for row in read(concepts / "bias.csv")}
    assert len(rows) == 6
    for network in (PIXELS, "colour histogram"):
        row, other = rows[network, "colours"], rows[network, "other way"]
        assert float(row["effect_size"]) > 1.5 and float(row["p_one_sided"]) == pytest.approx(1 / 252, rel=1e-4)
        assert float(other["effect_size"]) < -1.5 and float(other["p_one_sided"]) == 1
        assert float(other["p_two_sided"]) == pytest.approx(2 / 252, rel=1e-4)
        assert float(other["p_holm"]) == pytest.approx(4 / 252, rel=1e-4)
    assert "of 2 two-sided p-values 2 below 0.05" in capsys.readouterr().out


def test_images_of_one_patient_are_not_taken_apart(concepts, backbones):
    net = concepts / "net.safetensors"
    weights.export_backbone(backbones["net 0"], net)
    # Of x there are then two patients, of y five; a sixth image of y needs no other of x.
    (concepts / "y" / "5.png").write_bytes((concepts / "y" / "4.png").read_bytes())
    lines = [f"x/{i}.png,p{i // 3}" for i in range(5)] + ["y/4.png,q", "y/5.png,q"]
    (concepts / "groups.csv").write_text("\n".join(["file,group", *lines]))
    bias.main([str(concepts), "--backbone", str(net), "--size", "16"])
    rows = [row for row in read(concepts / "bias.csv") if (row["network"], row["test"]) == (PIXELS, "colours")]
    assert [(r["targets_x"], r["targets_y"], r["units_x"], r["units_y"]) for r in rows] == [("5", "6", "2", "5")]
    assert float(rows[0]["p_one_sided"]) == pytest.approx(1 / 21, rel=1e-4)
    (concepts / "groups.csv").write_text("file,group\nx/9.png,p\n")
    with pytest.raises(UserError, match="groups.csv names 'x/9.png', which is no image of a test"):
        bias.main([str(concepts), "--backbone", str(net), "--size", "16"])


def make_split():
    """Women's images are red, men's are green, and so are those of the two classes; two images of each patient."""
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 2)
    sex, label = patient % 2, patient // 2 % 2
    images = random.integers(0, 40, (80, 16, 16, 3), np.uint8)
    for shown in (sex, label):
        images[np.arange(80), :, :, shown] += 90
    split = data.from_arrays(images, label, [f"p{p}" for p in patient], ("MEL", "NV"), name="derm:test")
    ages = np.where(patient < 20, 30, 70).astype(np.float32)
    return dataclasses.replace(split, attributes={"sex": data.as_texts(np.array(["f", "m"])[sex]), "age": ages})


def test_concepts_are_conditions_on_a_data_set(tmp_path, backbones, monkeypatch, capsys):
    monkeypatch.setattr(data, "open_split", lambda name, split, data_dir: make_split())
    for name in ("net 0", "net 1"):
        weights.export_backbone(backbones[name], tmp_path / f"{name}.safetensors")
    (tmp_path / "tests.csv").write_text(
        "name,x,y,a,b\nsex,sex=f,sex=m,label=MEL,label=NV\nyoung,sex=f & age=20-39,sex=m&age=20–39,label=MEL,label=NV\n"
    )
    arguments = [str(tmp_path), "--data", "derm", "--size", "16", "--images", "12", "--backbone"]
    nets = [str(tmp_path / f"net {i}.safetensors") for i in (0, 1)]
    bias.main([*arguments, *nets, "--compare", "*net 0*", "*net 1*"])
    rows = {(row["network"], row["test"]): row for row in read(tmp_path / "bias.csv")}
    found = rows[PIXELS, "sex"]
    assert int(found["targets_x"]) <= 12 and int(found["units_x"]) <= 10 and float(found["effect_size"]) > 1
    assert int(rows[PIXELS, "young"]["units_x"]) < int(found["units_x"])
    groups = read(tmp_path / "bias_groups.csv")
    assert [row["level"] for row in groups] == ["0.05", "0.01", "0.001"]
    assert all((row["networks"], row["tests"]) == ("1", "2") for row in groups)
    assert "of 2 tests below 0.05" in capsys.readouterr().out
    for pattern, message in (("*net 9*", "no network"), ("*", "both name")):
        with pytest.raises(UserError, match=message):
            bias.main([*arguments, *nets, "--compare", "*net 0*", pattern])
    for cell, message in (
        ("shoe=1", "derm:test has no attribute 'shoe': there are label, age, sex"),
        ("sex=x", "has no sex 'x'; there are f, m"),
        ("sex", "'sex' is no condition: write ATTRIBUTE=VALUE"),
        ("sex=f", "0 patients or lesions of half of derm:test meet 'sex=f'"),
    ):
        (tmp_path / "tests.csv").write_text(f"name,x,y,a,b\none,{cell},sex=f,label=MEL,label=NV\n")
        with pytest.raises(UserError, match=message):
            bias.main([*arguments, *nets[:1]])


def test_no_patient_is_both_a_target_and_an_attribute():
    split = make_split()
    test = bias.Test("sex", "sex=f", "sex=m", "label=MEL", "label=NV")
    material = bias.draw_from_split(split, [test], 100, 3)
    of = {side: {material.groups[row] for row in material.sets["sex"][side]} for side in "xyab"}
    assert not (of["x"] | of["y"]) & (of["a"] | of["b"]) and all(of.values())
    assert len(set().union(*of.values())) == 40
    np.testing.assert_array_equal(material.images[:, 0, 0].max(axis=1) > 0, True)


def test_what_cannot_be_tested_is_one_message(concepts, backbones):
    net = str(concepts / "net.safetensors")
    weights.export_backbone(backbones["net 0"], net)
    with pytest.raises(UserError, match="has no endpoint 'stage9': there are stem"):
        bias.main([str(concepts), "--backbone", net, "--size", "16", "--endpoint", "stage9"])
    (concepts / "y" / "4.png").unlink()
    with pytest.raises(UserError, match="test 'colours': x 'x' has 5 images and y 'y' 4"):
        bias.main([str(concepts), "--backbone", net])
    (concepts / "y" / "4.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="4.png cannot be read as an image"):
        bias.main([str(concepts), "--backbone", net])
    (concepts / "tests.csv").write_text("name,x,y,a,b\none,x,y,a,none\n")
    with pytest.raises(UserError, match=r"test 'one': 'none' \(b\) is no sub-folder"):
        bias.main([str(concepts), "--backbone", net])
    (concepts / "tests.csv").write_text("name,x,y,a\none,x,y,a\n")
    with pytest.raises(UserError, match="lacks the column 'b'"):
        bias.main([str(concepts), "--backbone", net])
    (concepts / "tests.csv").unlink()
    with pytest.raises(MissingFile, match="write one with the columns name, x, y, a, b"):
        bias.main([str(concepts), "--backbone", net])
