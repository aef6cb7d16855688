"""The exercises of chapter 0: bits, a distance, what independence costs, drawing in order, a die for each fact."""
import functools
import math
from collections import Counter

import numpy as np
import torch

from minidiff import autoregressive, captions, data, scenes

from . import Exercise, Wrong, differs, luck, misshapen

# --- 1 bits -----------------------------------------------------------------------------------------------------------

FACTS = {"background": scenes.BACKGROUNDS, "place": scenes.PLACES, "size": scenes.SIZES,
         "colour": scenes.COLOURS, "shape": scenes.SHAPES}               # in the order of `captions.sentence`


def bits_left(caption):
    """How many bits the caption leaves open in world `single`."""
    right = [captions.matches(scene, caption) for scene in scenes.single("all")]
    return float(np.log2(sum(right)))


def open_facts_add_up(bits_left):
    """A second road, without a list: each fact that is not told leaves log2 of its number of choices."""
    world, generator = scenes.single("all"), data.rng("exercise", "bits")
    cases = {"something": [False] * 5, "a red circle": [False, False, False, True, True]}
    for language in ("en", "zh"):
        scene = world[int(torch.randint(len(world), (), generator=generator))]
        told = torch.randint(2, (5,), generator=generator).bool().tolist()
        cases[captions.sentence(scene, language, told, [0] * 4)] = told
    for caption, told in cases.items():
        n = math.prod(len(table) for table, named in zip(FACTS.values(), told, strict=True) if not named)
        usual = {
            "That is the natural logarithm; bits are counted with log2.": math.log(n),
            "That is the number of right pictures; the bits are its logarithm to base 2.": n,
            "That is what the caption tells; what it leaves open is asked for.": math.log2(len(world) / n),
            "That is a whole number of questions; bits may have a fraction.": math.ceil(math.log2(n)),
            'The training list lacks the held-out pairs; `scenes.single("all")` is every scene.': math.log2(3024)}
        if wrong := differs(bits_left(caption), math.log2(n), bits_left.call, usual):
            return wrong
    return None


q1 = Exercise(
    "`bits_left(caption)`: the bits that a caption leaves open in world `single`.",
    solved=bits_left, properties=[open_facts_add_up],
    hints=["All right pictures are equally likely. Which formula of part 2 gives the bits of $n$ equal chances?",
           '`captions.matches(scene, caption)` is True or False for each scene of `scenes.single("all")`.',
           "Count the True ones (`sum` can), and take `np.log2`."],
    right="Each fact left open adds its own bits: log2 of the number of its choices.")


# --- 2 a distance -----------------------------------------------------------------------------------------------------

def ring(u, v, r_out, r_in):
    """Signed distance to a ring between two radii; negative in its body."""
    r = (u ** 2 + v ** 2).sqrt()
    middle, half = (r_out + r_in) / 2, (r_out - r_in) / 2
    return (r - middle).abs() - half


def a_number_for_each_pixel(ring):
    """It takes a row and a column, as the centres of pixels come."""
    u, v = torch.linspace(-1, 1, 6)[None, :], torch.linspace(-1, 1, 4)[:, None]
    return misshapen(ring(u, v, .9, .4), torch.zeros(4, 6), "ring(u, v, 0.9, 0.4) with u [1, 6] and v [4, 1]")


def distance_to_the_nearest_point(ring):
    """The definition: how far the nearest of very many points of the two edges is, negative in the body."""
    angle = torch.linspace(0, 2 * math.pi, 20_000)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    for a, b, c, d, e, turn in torch.rand(12, 6, generator=data.rng("exercise", "ring")).tolist():
        small, big = round(.2 + .4 * a, 2), round(.8 + .4 * b, 2)
        spots = {"in the hole": c * small, "in the body": small + d * (big - small), "outside": big + e}
        points = torch.tensor(list(spots.values()))[:, None] * circle[int(20_000 * turn)]
        got = ring(*points.T, big, small)
        want = torch.cdist(points, torch.cat([big * circle, small * circle])).amin(1) * torch.tensor([1, -1, 1])
        if (got + want).abs().max() < 1e-3:
            return "The sign is turned round: a ring is negative in its body, positive outside and in its hole."
        for where, (u, v), found, right in zip(spots, points.tolist(), got.tolist(), want.tolist(), strict=True):
            if not abs(found - right) < 1e-3:
                return (f"ring({u:.3f}, {v:.3f}, {big}, {small}) is {found:.3f}; that point lies {where}, and the "
                        f"nearest point of an edge is {abs(right):.3f} away, so it should be {right:.3f}.")
    return None


q2 = Exercise(
    "`ring(u, v, r_out, r_in)`: the signed distance to a ring.",
    solved=ring, properties=[a_number_for_each_pixel, distance_to_the_nearest_point],
    hints=["A ring looks the same from all sides: only the distance $r$ to the centre matters. Draw the line of all "
           "$r$ and mark where the body of the ring lies.",
           "On that line the body is an interval. How far is $r$ from the middle of the interval? That is an `abs()`.",
           "Subtract half the width of the body, so that its two edges get 0."],
    right="It is the distance to the nearest point of an edge, negative in the body.")


# --- 3 what independence costs ----------------------------------------------------------------------------------------

def weighted_cost(codes, p):
    """sum_i H(x_i) - H(x) in bits, where row k of codes [n, d] has probability p[k]."""
    def entropy(values):
        which = values.unique(dim=0, return_inverse=True)[1]
        total = torch.zeros(len(values), dtype=p.dtype).index_add(0, which, p)      # equal values: add up
        total = total[total > 0]                                                    # 0 log 0 counts as 0
        return float(-(total * total.log2()).sum())
    return sum(entropy(pixel) for pixel in codes.T) - entropy(codes)


def divergence(codes, p):
    """KL(p || prod_i p_i) = sum_x p(x) log2 (p(x) / prod_i p_i(x_i)), picture by picture."""
    joint, alone = Counter(), Counter()
    for row, weight in zip(codes.tolist(), p.tolist(), strict=True):
        joint[tuple(row)] += weight
        alone.update(dict.fromkeys(enumerate(row), weight))
    return sum(w * math.log2(w / math.prod(alone[pixel] for pixel in enumerate(row))) for row, w in joint.items() if w)


def one_coin_for_m_pixels(weighted_cost):
    """Two pictures that differ in all m pixels, a biased coin between them: (m - 1) H."""
    for m, p in ((6, .9), (3, .25)):
        h = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
        usual = {"That is the natural logarithm; bits are counted with log2.": (m - 1) * h * math.log(2),
                 "The entropy H(x) of whole pictures is still to be subtracted.": m * h,
                 "That is the cost for equally likely pictures; each counts with its weight p.": m - 1,
                 "The sign is turned round.": (1 - m) * h}
        got = weighted_cost(torch.tensor([[0] * m, [1] * m]), torch.tensor([p, 1 - p]))
        what = f"The cost of two pictures that differ in all of their {m} pixels, p = [{p}, {1 - p:.4g}],"
        if wrong := differs(got, (m - 1) * h, what, usual):
            return wrong
    return None


def the_divergence(weighted_cost):
    """Random pictures against the definition; independent pixels, equal rows and a probability of 0 among them."""
    codes = torch.randint(3, (6, 5), generator=data.rng("exercise", "codes"))
    p = torch.rand(6, generator=data.rng("exercise", "p")) + .1
    grid, share = torch.cartesian_prod(torch.arange(2), torch.arange(3)), torch.tensor([.2, .3, .5])
    cases = {"six random pictures": (codes, p),
             "two pixels that really are independent": (grid, torch.cat([.3 * share, .7 * share])),
             "pictures of which rows 0 and 1 are equal (their probabilities add up)": (codes[[1, 1, 2, 3, 4, 5]], p),
             "pictures of which one has p = 0": (codes, p * (torch.arange(6) > 0))}
    usual = {"0 log 0 counts as 0, so leave out what has probability 0.": math.nan}
    for what, (codes, p) in cases.items():
        p = p / p.sum()
        if wrong := differs(weighted_cost(codes, p), divergence(codes, p), f"The cost of {what}", usual):
            return wrong
    return None


q3 = Exercise(
    "`weighted_cost(codes, p)`: what independence costs where pictures have probabilities of their own.",
    solved=weighted_cost, properties=[one_coin_for_m_pixels, the_divergence],
    hints=["Equation (0.7) holds for any $p$; only the entropies change. First write `entropy(values)` with weights.",
           "The probability of a colour in pixel $i$ is the sum of the weights of all pictures with that colour there. "
           "`values.unique(dim=0, return_inverse=True)` tells which rows are equal.",
           "`torch.zeros(n, dtype=p.dtype).index_add(0, which, p)` adds up the weights of equal rows.",
           "Use the same function for each column of `codes` and for `codes` as a whole. Leave out what has "
           "probability 0 before you take the logarithm."],
    right="It agrees with the divergence by its definition, for unequal, repeated and impossible pictures too.")


# --- 4 who may look at whom -------------------------------------------------------------------------------------------

def prefix_mask(n, prefix):
    """[n, n], True where token i (row) may look at token j (column): at the caption, and at nothing later than i."""
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, :prefix] = True
    return mask


def sees(i, j, prefix):
    """Whether token i sees token j, and the rule that says so."""
    return ((True, "a token sees itself") if i == j else
            (True, "caption tokens all see each other") if max(i, j) < prefix else
            (True, "every pixel sees the whole caption") if j < prefix else
            (False, "a caption token sees no pixel") if i < prefix else
            (j < i, "a pixel sees the pixels before it and none after it"))


def everyone_sees_the_past(prefix_mask):
    """Entry by entry, for all short sequences."""
    for n, prefix in ((6, 2), *((length, k) for length in range(1, 7) for k in range(length + 1))):
        got = prefix_mask(n, prefix)
        if form := misshapen(got, torch.zeros(n, n, dtype=torch.bool), prefix_mask.call):
            return form
        want = torch.tensor([[sees(i, j, prefix)[0] for j in range(n)] for i in range(n)]).reshape(n, n)
        if not got.equal(want):
            if got.T.equal(want):
                return f"In {prefix_mask.call} rows and columns are exchanged: row i says whom token i sees."
            i, j = (got != want).nonzero()[0].tolist()
            return (f"In {prefix_mask.call} token {i} {'sees' if got[i, j] else 'does not see'} "
                    f"{'itself' if i == j else f'token {j}'}, but {sees(i, j, prefix)[1]}.")
    return None


q4 = Exercise(
    "`prefix_mask(n, prefix)`: which of n tokens may look at which, if the first `prefix` of them are the caption.",
    solved=prefix_mask, properties=[everyone_sees_the_past],
    hints=["Row $i$ says what token $i$ may see. Draw the 6 × 6 table for a caption of 2 tokens and 4 pixels.",
           "Begin with pixels alone: `tril()` keeps the lower triangle of a matrix, its diagonal included.",
           "The caption is there before the first pixel is drawn, so everyone may see it. Which columns become True?"],
    right="All see the caption, and a pixel is seen only by itself and by those after it.")


# --- 5 drawing in order -----------------------------------------------------------------------------------------------

def sample_chain(conditional, length, n, generator):
    """n pictures of `length` pixels, x_i ~ conditional(x_0 ... x_(i-1)); [n, length]."""
    x = torch.zeros(n, 0, dtype=torch.long)
    for _ in range(length):
        p = conditional(x)                                               # [n, k]
        x = torch.cat([x, torch.multinomial(p, 1, generator=generator)], 1)
    return x


class Chain:
    """p(x_i | x_0 ... x_(i-1)) of three colours from random tables; it counts how often it was asked."""

    def __init__(self, length):
        random = [torch.rand(3 ** i, 3, generator=data.rng("exercise", "chain", i)) ** 3 + .1 for i in range(length)]
        self.tables, self.asked, self.__name__ = [t / t.sum(1, keepdim=True) for t in random], 0, "conditional"

    def __call__(self, past):
        if past.ndim != 2 or past.shape[1] >= len(self.tables) or past.is_floating_point():
            raise ValueError("conditional takes the pixels before as whole numbers [n, i], for pixel 0 as [n, 0]")
        self.asked += 1
        return self.tables[past.shape[1]][number(past)]

    def joint(self, m):
        """The exact probabilities of the first m pixels, each sequence at its number."""
        p = torch.ones(1)
        for table in self.tables[:m]:
            p = (p[:, None] * table).flatten()
        return p


def number(x):
    """A row of colours 0, 1, 2 as a number in base 3."""
    return x.long() @ 3 ** torch.arange(x.shape[1] - 1, -1, -1)


def one_call_for_each_pixel(sample_chain):
    """[n, length], the pictures in one batch, all dice thrown with the generator."""
    chain = Chain(4)
    first, again = (sample_chain(chain, 4, 50, data.rng("exercise", "draw")) for _ in range(2))
    if form := misshapen(first, torch.zeros(50, 4, dtype=torch.long), sample_chain.call):
        return form
    if chain.asked > 8:
        return (f"{sample_chain.call} asks the conditional {chain.asked // 2} times; 4 are enough, one for each pixel, "
                "with the pasts of all 50 pictures as one batch.")
    if not first.equal(again):
        return "Two equal generators give different pictures; every die should be thrown with `generator`."
    return None


def as_often_as_the_joint(sample_chain):
    """20,000 pictures of 3 pixels against the exact joint distribution, the first pixel first."""
    chain, n = Chain(3), 20_000
    x = sample_chain(chain, 3, n, data.rng("exercise", "draw many"))
    if wrong := misshapen(x, torch.zeros(n, 3, dtype=torch.long), sample_chain.call):
        return wrong
    if x.min() < 0 or x.max() > 2:
        return f"The colours reach from {x.min()} to {x.max()}; three colours have the numbers 0, 1 and 2."
    if (x == x[0]).all():
        return "All 20,000 pictures are the same; each needs dice of its own, and not always the likeliest colour."
    if luck(x[:, 0].bincount(minlength=3), chain.joint(1)) < 1e-6:
        return "Already pixel 0 does not come as often as it should; its shares are conditional(past) for past [n, 0]."
    for m in (2, 3):
        if luck(number(x[:, :m]).bincount(minlength=3 ** m), chain.joint(m)) < 1e-6:
            shares = chain.joint(m).reshape(-1, 3).sum(0)                # of pixel m - 1, looked at alone
            alone = luck(x[:, m - 1].bincount(minlength=3), shares) > 1e-6
            return (f"In 20,000 pictures pixel {m - 1}, counting from 0, does not go with the pixels before it as "
                    "often as it should" + (", though alone it would be right: a chimera" if alone else "")
                    + "; it must be drawn given all pixels before it, in order, in its own picture.")
    return None


q5 = Exercise(
    "`sample_chain(conditional, length, n, generator)`: draw n pictures pixel by pixel, each given those before.",
    solved=sample_chain, properties=[one_call_for_each_pixel, as_often_as_the_joint],
    hints=["Begin with no pixels: a tensor of shape [n, 0] and dtype `torch.long`.",
           "`conditional(x)` gives a row of probabilities for each of the n pictures. "
           "`torch.multinomial(p, 1, generator=generator)` throws one die for each row.",
           "Put the new column behind the others with `torch.cat([x, new], 1)`, and go on until there are `length`."],
    right="20,000 pictures come as often as the exact joint distribution says: the pixels agree, no chimera.")


# --- 6 a die for each fact --------------------------------------------------------------------------------------------

def one_die_per_fact(caption, z):
    """g(y, z): pictures [b, 3, 16, 16] from five normal numbers each, one for each fact; z [b, 5]."""
    told = captions.parse(caption)
    named = {"background": told.background} | (told.things[0] if told.things else {})
    tables = {"background": scenes.BACKGROUNDS, "shape": scenes.SHAPES, "colour": scenes.COLOURS,
              "size": scenes.SIZES, "place": scenes.PLACES}
    value = {}
    for k, (fact, table) in enumerate(tables.items()):
        die = (torch.special.ndtr(z[:, k]) * len(table)).long().clamp(max=len(table) - 1)
        fixed = named.get(fact)
        value[fact] = torch.full_like(die, list(table).index(fixed)) if fixed else die
    xy = (torch.tensor(list(scenes.PLACES.values()))[value["place"]] + 1) / 4
    shape, colour, size = (value[fact][:, None] for fact in ("shape", "colour", "size"))
    return scenes.render(scenes.Scenes(value["background"], shape, colour, size, 0 * shape, xy[:, None]), 16)


@functools.cache
def catalogue():
    """Every scene of the world, by the bytes of its picture."""
    every = scenes.single("all")
    return dict(zip(keys(scenes.render(every, 16)), every, strict=True))


def keys(pictures):
    """The bytes of each picture, its channels rounded to eleven steps."""
    steps = (autoregressive.rounded(pictures.detach().float()) * 5).round().to(torch.int8)
    return [row.tobytes() for row in steps.numpy()]


def facts(scene):
    """The five facts of a scene, by name."""
    thing = scene.things[0]
    return {fact: scene.background if fact == "background" else getattr(thing, fact) for fact in FACTS}


def drawn(g, caption, z):
    """The scenes that g draws; the first fault stops it."""
    pictures, shape = g(caption, z), torch.zeros(len(z), 3, 16, 16)
    if wrong := misshapen(pictures, shape, f"one_die_per_fact({caption!r}, z [{len(z)}, 5])"):
        raise Wrong(wrong)
    shown = [catalogue().get(key) for key in keys(pictures)]
    for scene in dict.fromkeys(shown):
        if scene is None:
            raise Wrong(f"For {caption!r} picture {shown.index(None)} is none of the 3,456 pictures of the world.")
        if not captions.matches(scene, caption):
            told = captions.sentence(scene, "en", [True] * 5, [0] * 4)
            raise Wrong(f"For {caption!r} it draws {told!r}, which is not right; what is told is not up to a die.")
    return shown


def equal_noise_equal_picture(g):
    """A function of z, row by row: no dice of its own."""
    z = torch.randn(16, 5, generator=data.rng("exercise", "equal"))
    for caption in ("a red circle", "something"):
        first, again, turned = (drawn(g, caption, x) for x in (z, z, z.flip(0)))
        if first != again:
            return f"For {caption!r} equal z give unequal pictures; all dice must come from z."
        if first != turned[::-1]:
            return f"For {caption!r} picture i does not depend on z[i] alone; each row of z makes its own picture."
    return None


def all_right_pictures_equally_often(g):
    """Chi-square of 20 pictures for each right one."""
    for caption in ("a small red circle at the top left", "a large star on cream", "a red circle",
                    "a white ring at the bottom right on navy", "左侧有一个大的方形"):
        right = [scene for scene in catalogue().values() if captions.matches(scene, caption)]
        n = len(right)
        often = Counter(drawn(g, caption, torch.randn(20 * n, 5, generator=data.rng("exercise", "dice", n))))
        if len(often) < n:
            return f"For {caption!r} there are {n} right pictures, but {20 * n:,} draws show only {len(often)} of them."
        if n > 1 and luck(torch.tensor([often[scene] for scene in right]), torch.ones(n)) < 1e-6:
            return (f"For {caption!r} one right picture comes {max(often.values())} times in {20 * n:,}, another "
                    f"{min(often.values())} times, too far from 20 each; is each number of z made uniform first?")
    return None


def one_fact_at_a_time(g):
    """Throwing one die again changes one fact at most, and every open fact has its die."""
    z, fresh = torch.randn(2, 100, 5, generator=data.rng("exercise", "turn"))
    before, has_die = drawn(g, "something", z), set()
    for k in range(5):
        after = drawn(g, "something", torch.where(torch.arange(5) == k, fresh, z))
        for a, b in zip(map(facts, before), map(facts, after), strict=True):
            changed = [fact for fact in FACTS if a[fact] != b[fact]]
            if len(changed) > 1:
                return f"Throwing only z[:, {k}] again changed {' and '.join(changed)} together; one fact for one die."
            has_die.update(changed)
    missing = [fact for fact in FACTS if fact not in has_die]
    return f"For 'something' no die changes the {missing[0]}, which is open." if missing else None


q6 = Exercise(
    "`one_die_per_fact(caption, z)`: a machine $g(y, z)$ with five dice, one for each fact that may be open.",
    solved=one_die_per_fact,
    properties=[equal_noise_equal_picture, all_right_pictures_equally_often, one_fact_at_a_time],
    hints=["In this world the open facts know nothing of each other, so each may have a die of its own. All pixels "
           "share what it decides.",
           "`torch.special.ndtr(z)` is uniform between 0 and 1. Times the number of choices, rounded down, it is "
           "the number of a choice.",
           "`captions.parse(caption)` is what is told: `.background`, and the dict `.things[0]`, if there is one.",
           "`scenes.Scenes(background, shape, colour, size, style, xy)` takes numbers of rows of the tables: "
           "background [b], then four of [b, 1] (style 0), then xy [b, 1, 2]. A place (column, row) has its centre at "
           "((column + 1) / 4, (row + 1) / 4). `scenes.render(…, 16)` draws them."],
    right="Every right picture comes equally often, and each die turns one fact: a code that people can read.")
