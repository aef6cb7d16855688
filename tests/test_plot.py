"""Figures: what is on them is read back from the pixels, and the alt text is looked for in the exported page."""
import io
import itertools
import os
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from minidiff import plot
from minidiff.data import rng

SAY = {"title": "A finding", "alt": "what is to be seen"}


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB")).astype(int)


def colours(*rows):
    """A batch [b, 3, 4, 4] of plain pictures in the given colours (0 to 255)."""
    return (torch.tensor(rows, dtype=torch.float32) / 127.5 - 1)[:, :, None, None].expand(-1, 3, 4, 4)


def frames_of(file):
    """The pauses of a film and its frames."""
    with Image.open(file) as film:
        frames = [(frame.info["duration"], frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    return [pause for pause, _ in frames], np.stack([np.asarray(frame).astype(int) for _, frame in frames])


def whole(image, colour):
    """Height and width of the box that a colour fills, and whether it fills it."""
    ys, xs = np.where((image == colour).all(-1))
    height, width = np.ptp(ys) + 1, np.ptp(xs) + 1
    return height, width, len(ys) == height * width


# ---- pictures as numbers

def test_to_uint8_inverts_every_level_and_clips():
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    assert (plot.to_uint8(levels / 127.5 - 1)[0, :, :, 2] == levels[0, 0].numpy()).all()
    ends = plot.to_uint8(torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).reshape(1, 1, 1, 5))
    assert ends[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("bad", [torch.zeros(2, 4, 8, 8), torch.full((1, 3, 2, 2), torch.nan)])
def test_what_is_no_picture_is_refused_with_a_sentence(bad):
    with pytest.raises(ValueError, match="shape|finite"):
        plot.to_uint8(bad)


def test_tile_puts_picture_i_in_row_i_over_columns():
    pictures = torch.rand(7, 3, 5, 4, generator=rng("tile")) * 2 - 1
    sheet = plot.tile(pictures, 3, gap=2)
    assert sheet.shape == (3, 3 * 5 + 2 * 2, 3 * 4 + 2 * 2)
    for i, (row, column) in enumerate(itertools.product(range(3), range(3))):
        cell = sheet[:, row * 7:row * 7 + 5, column * 6:column * 6 + 4]
        assert torch.equal(cell, pictures[i] if i < 7 else torch.ones(3, 5, 4))
    assert sheet.mean(0).eq(1).sum() >= 19 * 16 - 7 * 20                 # all else is white


def test_wrap_breaks_chinese_anywhere_and_words_only_at_blanks():
    text = "a small red circle at the top left on black"
    lines = plot.wrap(text, 14).split("\n")
    assert " ".join(lines) == text and max(map(len, lines)) <= 14
    chinese = plot.wrap("左上角有一个小的红色圆形", 8).split("\n")
    assert "".join(chinese) == "左上角有一个小的红色圆形" and max(map(len, chinese)) == 4
    assert plot.wrap("", 5) == ""


def test_moments_are_spread_and_keep_the_ends():
    for count, most in [(1, 8), (5, 8), (8, 8), (50, 8), (1000, 20)]:
        chosen = plot.moments(count, most)
        assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, min(count, most))
        assert max(np.diff(chosen), default=0) - min(np.diff(chosen), default=0) <= 1


# ---- grids

def test_grid_enlarges_to_whole_squares_in_reading_order():
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]]
    image = pixels(plot.grid(colours(*palette), columns=3, **SAY))
    boxes = [whole(image, colour) for colour in palette]
    assert len(set(boxes)) == 1 and boxes[0][2] and boxes[0][0] == boxes[0][1] and boxes[0][0] % 4 == 0
    corner = [np.argwhere((image == colour).all(-1)).min(0) for colour in palette]
    assert corner[0][0] == corner[1][0] == corner[2][0] < corner[3][0] == corner[4][0]
    assert corner[0][1] == corner[3][1] < corner[1][1] == corner[4][1] < corner[2][1]


def test_grid_shows_a_picture_upright_and_unsmoothed():
    picture = torch.full((1, 1, 4, 4), -1.0)
    picture[..., 0, 1] = 1.0                                             # one white pixel in the top row
    image = pixels(plot.grid(picture, **SAY))[:, :160]
    top = image.shape[0] - plot.GAP - 160
    square = image[top:top + 160, :160] // 255
    assert (square[:40, 40:80] == 1).all() and square.sum() == 3 * 40 * 40


def test_captions_and_marks_are_drawn_beneath_and_differ_by_more_than_colour():
    blue = colours([0, 0, 255], [0, 0, 255], [0, 0, 255])
    plain = pixels(plot.grid(blue, ["one", "one", "one"], **SAY))         # the pictures end at row 196
    marked = pixels(plot.grid(blue, ["one", "one", "one"], marks=[True, False, None], **SAY))
    ink = [(marked[198:, i * 168:i * 168 + 160].min(-1) < 160) for i in range(3)]
    assert plain.shape == marked.shape and all(part.any() for part in ink)
    assert (ink[0] ^ ink[1]).sum() > 20 and ink[2].sum() < ink[0].sum()  # the signs differ in shape; no sign, less ink


def test_captions_of_neighbours_keep_apart_and_the_title_keeps_off_the_edge():
    """Letters of the common width: none in the gap of 8 between two pictures, nor left or right of it by 4."""
    texts = ["a small yellow star at the top right on navy", "a large blue ring above a small white square"]
    image = pixels(plot.grid(colours(*[[9, 9, 9]] * 6), texts * 3, columns=6, **SAY))
    assert (image[:plot.GAP] == 255).all() and (image[plot.GAP:plot.GAP + plot.TITLE_LINE] < 128).any()
    below = image[plot.GAP * 2 + plot.TITLE_LINE + 128 + 2:]
    assert (below < 128).any()
    for k in range(1, 6):
        assert (below[:, k * 136 - plot.GAP - 4:k * 136 + 4] > 200).all()


def test_a_caption_makes_its_own_row_deeper():
    x = colours(*[[9, 9, 9]] * 4)
    every = (None, ["", "", "", "one line"], ["one line"] * 4, ["long enough for two lines of text"] + [""] * 3)
    heights = [pixels(plot.grid(x, captions, columns=2, **SAY)).shape[0] for captions in every]
    assert np.diff(heights).tolist() == [plot.LINE, plot.LINE, 0]


@pytest.mark.parametrize("wrong", [{"captions": ["one"]}, {"marks": [True]}, {"rows": ["a", "b"]}])
def test_a_wrong_number_of_words_is_refused(wrong):
    with pytest.raises(ValueError, match="give one for each, or none"):
        plot.grid(colours([1, 2, 3], [4, 5, 6]), **wrong, **SAY)


def test_pair_and_strip_arrange_by_row():
    red, green = colours([255, 0, 0], [255, 0, 0]), colours([0, 255, 0], [0, 255, 0])
    image = pixels(plot.pair(red, green, ["a", "b"], **SAY))
    first, second = (np.argwhere((image == c).all(-1)) for c in ([255, 0, 0], [0, 255, 0]))
    assert first[:, 0].max() < second[:, 0].min() and set(first[:, 1]) == set(second[:, 1])
    frames = [colours([4 * k, 0, 0], [0, 4 * k, 0]) for k in range(60)]
    image = pixels(plot.path_strip(frames, most=5, **SAY))
    row = image[40, ::1]
    seen = [c for c, _ in itertools.groupby(row.tolist()) if c != [255, 255, 255]]
    assert [c[0] for c in seen] == [4 * k for k in plot.moments(60, 5)]


# ---- words

def chinese_font():
    return any(name in plot.CHINESE for name in font_manager.fontManager.get_font_names())


def test_chinese_never_warns_whatever_the_fonts(monkeypatch, capfd):
    for family in (plot.STYLE["font.family"], ["DejaVu Sans"]):
        monkeypatch.setitem(plot.STYLE, "font.family", family)
        with matplotlib.rc_context(plot.STYLE):
            plot.grid(colours([1, 2, 3]), ["红色的圆"], title="左上角", alt="x")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not chinese_font(), reason="no Chinese font on this machine")
def test_chinese_letters_are_drawn_where_there_is_a_font():
    """Two letters differ in shape; without a font both would be the same box."""
    one, two = (pixels(plot.grid(colours([1, 2, 3]), [text], **SAY))[198:] for text in ("田", "一"))
    assert (one.min(-1) < 128).sum() > 2 * (two.min(-1) < 128).sum() > 0


# ---- colours that colour-blind readers can tell apart

BLINDNESS = {  # Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour):
    value = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_palette_can_be_told_apart(kind):
    seen = [lab(BLINDNESS[kind] @ linear(colour)) for colour in plot.COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15       # 2.3 is just noticeable


def test_lines_stand_out_from_white_and_carry_a_dash_each():
    contrast = [1.05 / (linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05) for colour in plot.COLOURS]
    assert min(contrast) > 2 and min(contrast[:3]) > 3                   # 3 is what WCAG 2 asks of graphics
    assert len(set(plot.DASHES[:-1])) == 6 and len(plot.DASHES) == len(plot.COLOURS)


# ---- lines and bars

def test_the_house_colours_survive_the_reduction_to_a_small_file():
    x = np.arange(200)
    shown = plot.curves({f"arm {k}": (x, np.exp(-x / 50) + k, 0.1 + 0 * x) for k in range(7)}, xlabel="step",
                        ylabel="loss", **SAY)
    image = pixels(shown).reshape(-1, 3)
    for colour in plot.COLOURS:
        exact = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(image - exact).max(1).min() <= 4
    assert len(plot.curves({"one": (x, np.exp(-x / 50))}, xlabel="t", ylabel="y", log="y", **SAY).data) < 12_000


def spy(monkeypatch):
    """The axes of the next figure, caught on the way to its file."""
    caught, plain = [], plot.picture
    monkeypatch.setattr(plot, "picture", lambda fig, *, alt: caught.append(fig.axes[0]) or plain(fig, alt=alt))
    return caught


def test_loss_curve_draws_the_mean_of_the_steps_around(monkeypatch):
    caught = spy(monkeypatch)
    values = torch.rand(200, generator=rng("loss")).numpy()
    plot.loss_curve(SimpleNamespace(steps=np.arange(200), losses={"loss": values}), **SAY)
    mean, raw = (line.get_ydata() for line in caught[0].lines)
    assert np.allclose(raw, values)
    for i in (0, 3, 100, 199):
        assert mean[i] == pytest.approx(values[max(i - 5, 0):i + 6].mean())


def test_bars_keep_their_order_and_write_their_numbers(monkeypatch):
    caught = spy(monkeypatch)
    plot.bars({"first": (0.5, 0.125), "second": 2, "third": (1, 0.0)}, xlabel="accuracy", **SAY)
    assert [bar.get_width() for bar in caught[0].patches] == [0.5, 2.0, 1.0]
    assert [text.get_text() for text in caught[0].texts] == ["0.5 ± 0.12", "2", "1"]
    assert [label.get_text() for label in caught[0].get_yticklabels()] == ["first", "second", "third"]
    assert caught[0].yaxis_inverted()


def test_bars_show_both_ends_of_an_interval_and_begin_at_zero(monkeypatch):
    caught = spy(monkeypatch)
    plot.bars({"none": (0, 0, 3.5), "few": (1.1, 0.2, 6)}, xlabel="right (%)", unit=" %", **SAY)
    drawn = [lines.get_segments()[0][:, 0] for lines in caught[0].collections]
    assert np.allclose(drawn, [[0, 3.5], [0.2, 6]]) and caught[0].get_xlim()[0] == 0
    assert [text.get_text() for text in caught[0].texts] == ["0 % [0, 3.5]", "1.1 % [0.2, 6]"]


def test_styles_stay_inside_the_figure_functions():
    before = dict(matplotlib.rcParams)
    plot.bars({"a": 1.0}, xlabel="x", **SAY)
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context():
        plot.style()
        assert matplotlib.rcParams["figure.dpi"] == plot.DPI


# ---- films

def test_a_film_is_an_animated_png_true_to_its_last_frame(tmp_path):
    noise = torch.randn(4, 3, 16, 16, generator=rng("film"))
    last = colours([200, 30, 90], [10, 200, 60], [40, 80, 220], [240, 220, 20]).repeat(1, 1, 4, 4)
    film = plot.film([last * k / 29 + noise * (1 - k / 29) for k in range(30)], alt="noise becomes colours", most=12)
    pauses, frames = frames_of(io.BytesIO(film.data))
    assert film.data.startswith(b"\x89PNG") and b"acTL" in film.data and pauses == [125] * 11 + [1500]
    sheet = plot.to_uint8(plot.tile(last, 4)[None])[0].astype(int)
    assert np.abs(frames[-1] - sheet.repeat(5, 0).repeat(5, 1)).max() <= 2
    film.save(tmp_path / "film.gif")
    pauses, again = frames_of(tmp_path / "film.gif")
    assert pauses == [120] * 11 + [1500] and np.abs(again - frames).max() <= 2      # a GIF counts in hundredths


def test_a_film_of_four_scenes_is_small():
    noise = torch.randn(4, 3, 32, 32, generator=rng("film"))
    assert len(plot.film([noise * (1 - k / 49) for k in range(50)], alt="noise fades").data) < 100_000


# ---- files

def test_save_png_round_trip(tmp_path):
    pictures = torch.randint(0, 256, (3, 3, 8, 8), generator=rng("png")) / 127.5 - 1
    plot.save_png(pictures, tmp_path / "x.png", columns=2, scale=3)
    stored = np.asarray(Image.open(tmp_path / "x.png"))[::3, ::3]
    assert (stored == plot.to_uint8(plot.tile(pictures, 2)[None])[0]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_wrong_ending_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match="'x.jpg' needs one of these endings"):
        plot.save_png(colours([1, 2, 3]), tmp_path / "x.jpg")
    with pytest.raises(OSError, match="could not write .*No such file or directory.*nothing was left behind"):
        plot.save_png(colours([1, 2, 3]), tmp_path / "none" / "x.png")


FULL_DISK = """
import resource, signal, sys, torch
from minidiff import plot
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    plot.save_png(torch.rand(8, 3, 32, 32), sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes stands in for the full disk")
def test_a_full_disk_leaves_the_old_picture_and_nothing_else(tmp_path):
    """The system stops the write in the middle (a file may hold 1,000 bytes)."""
    plot.save_png(colours([1, 2, 3]), tmp_path / "x.png")
    before = (tmp_path / "x.png").read_bytes()
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "x.png")], capture_output=True, text=True,
                         env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert "nothing was left behind" in run.stdout, run.stderr
    assert (tmp_path / "x.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# ---- alt text

def test_a_figure_without_alt_text_is_refused():
    for make in (lambda: plot.grid(colours([1, 2, 3]), title="A finding", alt=" "), lambda: plot.show(Figure())):
        with pytest.raises(ValueError, match="alt text"):
            make()


def test_alt_text_survives_a_kernel_and_the_export():
    """Figures, films and figures of one's own, each shown once, run in a real kernel and exported."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    nbconvert = pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    cells = ["import torch\nfrom minidiff import plot\nplot.style()\nx = torch.zeros(2, 3, 8, 8)",
             "plot.grid(x, title='Grey', alt='two grey \"squares\" & more')",
             "plot.film([x, x + 1], alt='a film')",
             "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplot.show(plt.gcf(), alt='a line that rises')",
             "plot.show(plot.bars({'a': 1.0}, title='One', xlabel='n', alt='one bar'))"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, kernel_name="python3", timeout=120).execute()
    nbformat.validate(book)
    said = ['two grey "squares" & more', "a film", "a line that rises", "one bar"]
    shown = [output for cell in book.cells for output in cell.outputs]
    assert [output.metadata["image/png"]["alt"] for output in shown] == said and not book.cells[0].outputs
    page, _ = nbconvert.HTMLExporter(template_name="classic").from_notebook_node(book)
    parser = HTMLParser()
    found = []
    parser.handle_starttag = lambda tag, attributes: found.append(dict(attributes).get("alt")) if tag == "img" else None
    parser.feed(page)
    assert found == said
