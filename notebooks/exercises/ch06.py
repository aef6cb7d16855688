"""The exercises of chapter 6: costs, standardised codes, CLIP's loss, cross-attention, an edit, two captions."""
import math

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minidiff import data, layers
from minidiff.schedules import like, trigonometric

from . import Exercise, Wrong, brief, differs, misshapen, unlike


def random(*shape, key):
    """Normal numbers, float64, that depend on the key alone."""
    return torch.randn(*shape, generator=data.rng("exercise", 6, key), dtype=torch.float64)


def parts(got, *names):
    """What came back, once it is known to be a tuple of as many parts."""
    if not isinstance(got, tuple | list) or len(got) != len(names):
        raise Wrong(f"The result is {brief(got)}; it should be a tuple ({', '.join(names)}).")
    return got


# --- 1 multiplications ------------------------------------------------------------------------------------------------

def multiplications(side, c):
    """Multiplications of a 3x3 convolution and one self-attention, both of width c, on side x side places."""
    n = side ** 2
    return 9 * c ** 2 * n + 4 * c ** 2 * n + 2 * n ** 2 * c


def counted(side, c):
    """What PyTorch counts in the two layers themselves; on "meta" they have shapes and no numbers."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        nn.Conv2d(c, c, 3, padding=1)(torch.zeros(1, c, side, side))
        layers.Attention(c, 1)(torch.zeros(1, side ** 2, c))
    return counter.get_total_flops() // 2


def on_a_single_place(multiplications):
    """13 c² + 2 c: what stands before the numbers of places."""
    for c in (24, 7):
        want = counted(1, c)
        usual = {"Each comes with an addition; only the multiplications are wanted.": 2 * want,
                 "Attention has four matrices: queries, keys, values, output.": want - c ** 2,
                 "Places meet twice: once for the weights, once for the mean.": want - c,
                 "A 3x3 kernel has nine numbers.": want - 6 * c ** 2,
                 "The attention is missing.": 9 * c ** 2, "The convolution is missing.": want - 9 * c ** 2,
                 "In a convolution every channel out hears all c channels in.": want - 9 * c ** 2 + 9 * c}
        what = f"On a single place and with c = {c} the number"
        if wrong := differs(multiplications(1, c), want, what, usual, tol=1e-9):
            return wrong
    return None


def on_many_places(multiplications):
    """Only the meeting of places grows with their square."""
    for side, c in ((8, 32), (5, 3), (64, 320)):
        n, each, meet = side ** 2, 13 * c ** 2, 2 * c
        usual = {"A picture has side² places, not side.": each * side + meet * n,
                 "Every place meets every place: n² pairs.": (each + meet) * n,
                 "Convolution and matrices work once a place; only the pairs are n².": (each + meet) * n ** 2}
        what = f"With side = {side} and c = {c} the number"
        if wrong := differs(multiplications(side, c), counted(side, c), what, usual, tol=1e-9):
            return wrong
    return None


q1 = Exercise(
    "`multiplications(side, c)`: what a convolution and self-attention cost.",
    solved=multiplications, properties=[on_a_single_place, on_many_places],
    hints=["Add up the two halves of (6.1). Here all widths are c, and h = w = side.",
           "The number of places is n = side². The kernel makes 9 c² multiplications at each, the four matrices 4 c².",
           "What is left is 2 n² c, for n² pairs of places, twice."],
    right="It is what PyTorch counts, to the last one.")


# --- 2 standardised codes ---------------------------------------------------------------------------------------------

def standardised(codes):
    """(z, mean, std): codes [b, c, h, w] with mean 0 and std 1 in each channel, and z * std + mean gives them back."""
    mean, std = codes.mean((0, 2, 3))[:, None, None], codes.std((0, 2, 3))[:, None, None]
    return (codes - mean) / std, mean, std


def ill_formed(got, codes, name):
    """What is wrong with the form of a mean or std, which has a number for each channel."""
    b, c, h, w = codes.shape
    if not isinstance(got, torch.Tensor) or got.numel() == 1 != c:
        return f"{name} is {brief(got)}; it should be a tensor with a number for each channel, [{c}, 1, 1]."
    advice = {(c,): f" [{c}] would go along the width: [:, None, None].",
              (b, c): " All pictures share it: the decoder cannot know what each one's was.",
              (c, h, w): " All places share it: average over them, too.", (h, w): " Channels come before the places."}
    bare, short = tuple(got.squeeze().shape), tuple(got.shape[got.ndim == 4 and len(got) == 1:])
    if short != (c, 1, 1):
        return f"{name} has shape {list(got.shape)}; it should be [{c}, 1, 1].{advice.get(bare, '')}"
    return misshapen(got, torch.zeros(got.shape), name)


def unsound(standardised, codes, what):
    """None, or what is wrong with an answer for these codes."""
    z, mean, std = parts(standardised(codes), "z", "mean", "std")
    forms = misshapen(z, codes, "z"), ill_formed(mean, codes, "mean"), ill_formed(std, codes, "std")
    if wrong := next(filter(None, forms), None):
        return wrong
    middle, wide = z.double().mean((0, 2, 3)), z.double().std((0, 2, 3))
    if (middle.abs() > .01).any():
        return f"{what} the channels of z have means {brief(middle)}; each should be 0. Take the mean away first."
    if ((wide - 1).abs() > .01).any():
        square = (wide * codes.double().std((0, 2, 3)) - 1).abs() < .01
        return (f"{what} the channels of z have stds {brief(wide)}; each should be 1."
                + " You divided by the variance; the std is its root." * bool(square.all()))
    return differs(z * std + mean, codes, f"{what} z * std + mean, which gives them back,")


def each_channel(standardised):
    """Three channels, each with a middle and a width of its own."""
    codes = random(6, 3, 5, 4, key="codes") * torch.tensor([.3, 1, 20])[:, None, None]
    codes += torch.tensor([1, -5, 8])[:, None, None]
    if wrong := unsound(standardised, codes, "Of 6 codes"):
        return wrong
    kept = codes.clone()
    standardised.function(kept)
    return None if kept.equal(codes) else "Afterwards the codes have changed; make a new tensor for z."


def far_from_zero(standardised):
    """float32, where squares of thousands leave no digits for the rest."""
    codes = random(20, 2, 4, 4, key="far") / 2 + torch.tensor([3000, -1000])[:, None, None]
    wrong = unsound(standardised, codes.float(), "With means of 3000 and -1000 (float32)")
    return wrong and wrong + " E[m²] - E[m]² loses all its digits here; square m - mean."


q2 = Exercise(
    "`standardised(codes)`: mean 0 and variance 1, channel by channel.",
    solved=standardised, properties=[each_channel, far_from_zero],
    hints=["A mean for each channel, over the pictures and all places of all of them: `codes.mean((0, 2, 3))`.",
           "That is [c]. To stand before [b, c, h, w] it needs two axes more: `[:, None, None]`.",
           "The decoder must undo it, so give back mean and std (the root of the variance) as well."],
    right="Each channel has mean 0 and std 1, and the codes can be had back.")


# --- 3 CLIP's loss ----------------------------------------------------------------------------------------------------

def clip_loss(u, w, tau):
    """(6.6) for pictures u and captions w, [n, d], which need not be of length 1."""
    u, w = (v / v.norm(dim=1, keepdim=True) for v in (u, w))
    table = tau * u @ w.T
    return -(table.log_softmax(1) + table.log_softmax(0)).diagonal().mean() / 2


def quizzes(u, w, tau):
    """The losses [n] of finding the caption and of finding the picture, term by term; vectors as they are."""
    cosine = [[float(tau * (a * b).sum()) for b in w.double()] for a in u.double()]
    rows = [math.log(sum(math.exp(v - row[i]) for v in row)) for i, row in enumerate(cosine)]
    columns = [math.log(sum(math.exp(row[i] - cosine[i][i]) for row in cosine)) for i in range(len(cosine))]
    return torch.tensor([rows, columns], dtype=torch.float64)


def unit(v, axis=1):
    """Of length 1, in float64."""
    return v.double() / v.double().norm(dim=axis, keepdim=True)


def who_cannot_see_guesses(clip_loss):
    """All pictures alike, all captions alike: log n, whatever the rest."""
    n = 5
    u, w = random(1, 4, key="u").expand(n, 4), random(1, 4, key="w").expand(n, 4)
    usual = {"Take the mean over the n quizzes, not the sum.": n * math.log(n),
             "Both directions count, each one half.": 2 * math.log(n),
             "The right answer stands among the others below the fraction.": math.log(n - 1),
             "Mind the sign: a loss is high where the right one is improbable.": -math.log(n)}
    what = "With 5 equal pictures and 5 equal captions nobody can do better than chance, log 5; your loss"
    return differs(clip_loss(u, w, 3.), math.log(n), what, usual, tol=1e-5)


def each_row_and_column_is_a_quiz(clip_loss):
    """Random vectors of any length, term by term."""
    for n, d, tau in ((6, 4, 3.), (3, 7, .5)):
        u, w = 2 * random(n, d, key=f"rows {n}"), 3 * random(n, d, key=f"columns {n}")
        e, f = unit(u), unit(w)
        rows, columns = quizzes(e, f, tau)
        usual = {"Those are the rows alone; each caption looks for its picture, too.": rows.mean(),
                 "Those are the columns alone; each picture looks for its caption, too.": columns.mean(),
                 "Bring every vector to length 1 first; u and w need not be.": quizzes(u, w, tau).mean(),
                 "Here tau multiplies the cosines; a temperature would divide.": quizzes(e, f, 1 / tau).mean(),
                 "Where is tau?": quizzes(e, f, 1.).mean(),
                 "A vector is a row: its length goes along axis 1.": quizzes(unit(u, 0), unit(w, 0), tau).mean()}
        usual = {advice: float(value) for advice, value in usual.items()}
        what = f"For {n} pairs of random vectors and tau = {tau:g} the loss"
        if wrong := differs(clip_loss(u, w, tau), float((rows + columns).mean() / 2), what, usual, tol=1e-5):
            return wrong
    return None


def as_sharp_as_clip_may_be(clip_loss):
    """tau = 100, where OpenAI's CLIP stops it, in float32; two of the captions are exchanged."""
    u = random(8, 16, key="sharp").float()
    w = u[[1, 0, 2, 3, 4, 5, 6, 7]]
    wrong = differs(clip_loss(u, w, 100.), float(quizzes(unit(u), unit(w), 100.).mean()),
                    "With tau = 100, in float32, the loss", tol=1e-4)
    return wrong and wrong + " e^100 is no number of float32; `log_softmax` and `cross_entropy` never form it."


q3 = Exercise(
    "`clip_loss(u, w, tau)`: which caption, which picture?",
    solved=clip_loss, properties=[who_cannot_see_guesses, each_row_and_column_is_a_quiz, as_sharp_as_clip_may_be],
    hints=["Divide each row by its length. Then `tau * u @ w.T` is the table of all pairs.",
           "Row i is a quiz with the right answer i: the cross-entropy of a softmax along the row. So is column i.",
           "`table.log_softmax(1).diagonal()` are the logarithms of the right answers, by rows."],
    right="Rows and columns are quizzes, for vectors of any length, and for tau = 100 as well.")


# --- 4 cross-attention ------------------------------------------------------------------------------------------------

def cross_attention(q, k, v, mask):
    """(6.8), one head: q [b, places, d], k [b, words, d], v [b, words, d_v], mask [b, words] -> [b, places, d_v]."""
    scores = q @ k.transpose(1, 2) / k.shape[-1] ** .5
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ v


def listened(q, k, v, mask):
    """(6.8) picture by picture; words that are not real are cut off."""
    q, k, v = q.double(), k.double(), v.double()
    return torch.stack([(y @ key[m].T / y.shape[-1] ** .5).softmax(1) @ value[m]
                        for y, key, value, m in zip(q, k, v, mask, strict=True)])


def asked(*shape, key, size=1.):
    """q, k and v for b pictures, places, words, d, d_v."""
    b, places, words, d, d_v = shape
    shapes = {"q": (b, places, d), "k": (b, words, d), "v": (b, words, d_v)}
    return [random(*s, key=f"{key} {name}") * (1 if name == "v" else size) for name, s in shapes.items()]


def words_compete_for_a_place(cross_attention):
    """Without padding."""
    for shape in ((2, 5, 4, 6, 3), (3, 1, 7, 2, 5)):
        q, k, v = asked(*shape, key=f"all {shape}", size=1.5)
        mask, d, product = torch.ones(shape[0], shape[2], dtype=torch.bool), shape[3], q @ k.transpose(1, 2)
        usual = {"Each place shares itself out among the words: softmax along the words, the last axis.":
                 (product / d ** .5).softmax(1) @ v, "The scale is missing: divide by sqrt(d).": product.softmax(2) @ v,
                 "The mask is True where a word is real.": product.softmax(2) @ v * math.nan,
                 "Divide by the root of d.": (product / d).softmax(2) @ v,
                 "d is the width of queries and keys, not of v.": (product / shape[4] ** .5).softmax(2) @ v,
                 "d is the width of the keys, not the number of words.": (product / shape[2] ** .5).softmax(2) @ v}
        what = f"For {shape[1]} places, {shape[2]} words and d = {d} the answer"
        if wrong := unlike(cross_attention(q, k, v, mask), listened(q, k, v, mask), what, usual):
            return wrong
    return None


def padding_is_not_there(cross_attention):
    """As if the words that are not real had been cut off."""
    q, k, v = asked(2, 3, 5, 4, 4, key="padded", size=1.2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    scores, m = q @ k.transpose(1, 2) / 2, mask[:, None].double()
    usual = {"A score of 0 is not silence, e^0 is 1; padding needs -inf.": (scores * m).softmax(2) @ v,
             "What is left after the mask no longer adds up to 1.": (scores.softmax(2) * m) @ v,
             "The mask has no effect.": scores.softmax(2) @ v}
    want = listened(q, k, v, mask)
    return unlike(cross_attention(q, k, v, mask), want, "With 3 and 1 real words of 5 the answer", usual)


def loud_words(cross_attention):
    """Scores of hundreds, float32, for padding as well."""
    q, k, v = (part.float() for part in asked(2, 4, 6, 4, 3, key="loud", size=16.))
    mask = torch.arange(6) < torch.tensor([[4], [2]])
    wrong = differs(cross_attention(q, k, v, mask), listened(q, k, v, mask).float(),
                    "With scores of several hundred, in float32, the answer", tol=1e-3)
    return wrong and wrong + " `softmax` forms no e^500, and only -inf silences padding that is loud."


q4 = Exercise(
    "`cross_attention(q, k, v, mask)`: what a place hears of the words.",
    solved=cross_attention, properties=[words_compete_for_a_place, padding_is_not_there, loud_words],
    hints=["The scores are all products of a query and a key: [b, places, words]. Divide them by sqrt(d).",
           "A softmax along the last axis makes weights of them, with which you average the v.",
           "Before it, set the scores of padding to -inf: `scores.masked_fill(~mask[:, None], -torch.inf)`."],
    right="Places listen to real words alone, however loud the padding.")


# --- 5 the start of an edit -------------------------------------------------------------------------------------------

def start_of_edit(z0, strength, steps, noise):
    """(z_t, times): (6.12) at t = strength, and the times of the way from there to 0, a share of the steps."""
    times = torch.linspace(strength, 0, max(1, round(strength * steps)) + 1, dtype=torch.float64)
    alpha, sigma = torch.cos(torch.pi / 2 * times[0]), torch.sin(torch.pi / 2 * times[0])
    return alpha * z0 + sigma * noise, times


def a_share_of_the_way(start_of_edit):
    """Where the way begins, and its times."""
    z0, noise = random(2, 4, 3, 3, key="z0"), random(2, 4, 3, 3, key="noise")
    for t, steps, n in ((.5, 20, 10), (.7, 10, 7), (.25, 40, 10)):
        a, s, ending = math.cos(math.pi / 2 * t), math.sin(math.pi / 2 * t), f"strength = {t:g} and steps = {steps}"
        z_t, times = parts(start_of_edit(z0, t, steps, noise), "z_t", "times")
        usual = {"alpha and sigma are swapped: little strength, little noise.": s * z0 + a * noise,
                 "That is a straight line; here alpha = cos(pi t/2), sigma = sin(pi t/2).": (1 - t) * z0 + t * noise,
                 "The noise must be scaled, too, by sigma.": a * z0 + noise,
                 "The picture must be scaled, too, by alpha.": z0 + s * noise,
                 "alpha² + sigma² = 1, but with roots of t the angle is another.": (1 - t) ** .5 * z0 + t ** .5 * noise,
                 "t = 1 is a quarter turn: pi t/2.": math.cos(math.pi * t) * z0 + math.sin(math.pi * t) * noise}
        want = torch.linspace(t, 0, n + 1).double()
        if wrong := unlike(z_t, a * z0 + s * noise, f"With {ending} z_t", usual):
            return wrong
        if wrong := misshapen(times, want, f"With {ending} the list times"):
            return f"{wrong} {n} steps are left of {steps}, and n steps have n + 1 times."
        usual = {"The way begins at the strength, not at 1.": torch.linspace(1, 0, n + 1).double(),
                 "It goes down, from the strength to 0.": want.flip(0)}
        if wrong := unlike(times, want, f"With {ending} the list times", usual):
            return wrong
    return None


def little_and_all(start_of_edit):
    """Strength 1 is painting from noise; a strength for less than a step still makes one."""
    z0, noise = random(1, 2, 2, 2, key="little"), random(1, 2, 2, 2, key="all")
    z_t, times = parts(start_of_edit(z0, 1., 8, noise), "z_t", "times")
    every = torch.linspace(1, 0, 9).double()
    wrong = differs(z_t, noise, "With strength = 1 z_t") or differs(times, every, "With strength = 1 the list times")
    if wrong:
        return wrong + " Nothing of the picture is left, and all steps are."
    ends = parts(start_of_edit(z0, .01, 20, noise), "z_t", "times")[1][[0, -1]]
    wrong = differs(ends, torch.tensor([.01, 0]).double(), "With strength = 0.01 the list times, its first and last,")
    return wrong and wrong + " At least one step must lead from there to 0."


q5 = Exercise(
    "`start_of_edit(z0, strength, steps, noise)`: noise and restart.",
    solved=start_of_edit, properties=[a_share_of_the_way, little_and_all],
    hints=["(6.12) at $t$ = strength, with $\\alpha_t = \\cos(\\pi t/2)$ and $\\sigma_t = \\sin(\\pi t/2)$.",
           "The whole way of `steps` steps goes from 1 to 0. From the strength on only that share of it is left.",
           "`torch.linspace(strength, 0, n + 1)` are the times of n steps; n = round(strength * steps), but not 0."],
    right="The way begins where the picture has the noise of its strength, and ends at 0.")


# --- 6 two captions ---------------------------------------------------------------------------------------------------

def compose(a, b, none, scale):
    """A denoiser for two captions at once, from the guesses (z, t) -> z0_hat with each of them and with none."""
    def both(z, t):
        plain = none(z, t)
        return plain + scale * (a(z, t) - plain) + scale * (b(z, t) - plain)
    return both


def bell(mean, width):
    """The exact guess E[z0 | z_t] where z0 is N(mean, width^2), each column its own."""
    mean, width = torch.tensor([mean, width], dtype=torch.float64)

    def guess(z, t):
        alpha, sigma = (like(c, z) for c in trigonometric(t))
        gain = alpha * width ** 2 / (alpha ** 2 * width ** 2 + sigma ** 2)
        return mean + gain * (z - alpha * mean)
    return guess


def composed(compose, guesses, scale, at):
    """What the denoiser that came back says at (z, t)."""
    denoise = compose(*guesses, scale)
    if not callable(denoise):
        raise Wrong(f"{compose.call} is {brief(denoise)}; it should be a function (z, t) -> z0_hat, as `cfg` gives.")
    try:
        return denoise(*at)
    except Exception as error:
        raise Wrong(f"The function that {compose.call} gives back stops with {brief(error)}.") from error


def one_left_one_right(compose):
    """Captions that speak of different columns: at scale 1 the exact guess of whoever knows both."""
    a, b, none = bell([2., 0.], [.3, 1.]), bell([0., -1.], [1., .5]), bell([0., 0.], [1., 1.])
    for t in (torch.tensor(.5), torch.tensor([.2, .9, .6])):
        at = random(3, 2, key="columns"), t
        left, right, plain = (guess(*at) for guess in (a, b, none))
        usual = {"The mean of both guesses believes each caption half.": (left + right) / 2,
                 "In a + b what both know without a caption counts twice.": left + right,
                 "The differences must be added to the guess without a caption.": left + right - 2 * plain,
                 "Only the last caption is heard.": right, "Only the first caption is heard.": left}
        what = "One caption tells the first column, one the second. With scale 1 the guess"
        got = composed(compose, (a, b, none), 1., at)
        if wrong := unlike(got, bell([2., -1.], [.3, .5])(*at), what, usual):
            return wrong
    return None


def an_empty_caption_asks_for_nothing(compose):
    """If the second caption is the empty one, what is left is (6.11)."""
    a, none, at = bell([1., 2.], [.3, .6]), bell([0., 1.], [2., 1.]), (random(4, 2, key="empty"), torch.tensor(.4))
    for scale in (3., 0.):
        told, plain = a(*at), none(*at)
        usual = {"`scale` has no effect.": told, "Scale the differences, not the guesses.": scale * told}
        what = f"With an empty second caption and scale {scale:g} (6.11) is left: the guess"
        want = plain + scale * (told - plain)
        if wrong := unlike(composed(compose, (a, none, none), scale, at), want, what, usual):
            return wrong
    return None


def both_speak_of_one_place(compose):
    """What they want adds up, in whatever order."""
    a, b, none = (bell(m, [.5, w]) for m, w in (([1., 2.], .5), ([3., -1.], .9), ([0., .5], 2.)))
    at = random(4, 2, key="one place"), torch.tensor(.7)
    plain, (left, right) = none(*at), (guess(*at) - none(*at) for guess in (a, b))
    return unlike(composed(compose, (a, b, none), 2.5, at), plain + 2.5 * left + 2.5 * right,
                  "Where both captions speak of the same numbers what they want adds up; with scale 2.5 the guess",
                  {"`scale` goes before both differences.": plain + 2.5 * left + right,
                   "Both count, not the larger one alone.": plain + 2.5 * left.where(left.abs() > right.abs(), right)})


q6 = Exercise(
    "`compose(a, b, none, scale)`: one picture, two captions.",
    solved=compose, properties=[one_left_one_right, an_empty_caption_asks_for_nothing, both_speak_of_one_place],
    hints=["Return a function of (z, t), as `cfg` of part 8 does. What one caption wants is a(z, t) - none(z, t).",
           "Captions that are independent multiply: p(z | a, b) ~ p(z) · p(z | a)/p(z) · p(z | b)/p(z).",
           "The gradients of logarithms add up, so guesses do: none + scale (a - none) + scale (b - none)."],
    right="Each caption adds what it wants, and an empty one adds nothing.")
