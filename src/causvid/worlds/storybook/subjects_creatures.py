"""Draw the other creatures. Legend: see paint.Draw."""

from torch import Tensor

from .paint import AMBER, BODY, CHALK, DEEP, GLASS, INK, LIGHT, ROSE, SHADE, Part
from .sdf import blend, box, chain, circle, cut, ellipse, limb, polygon, turn, union


def whale(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a whale with a pale belly, blowing."""
    wave = 0.10 * beat
    body = blend(ellipse(x, y, 0.18, -0.16, 0.80, 0.54), limb(x, y, -0.40, -0.10, -0.86, 0.22 + wave, 0.34, 0.10), 0.2)
    flukes = union(
        limb(x, y, -0.84, 0.20 + wave, -1.06, 0.56 + wave, 0.11, 0.05),
        limb(x, y, -0.84, 0.20 + wave, -0.56, 0.58 + wave, 0.11, 0.05),
    )
    spout = chain(x, y, [(0.30, 0.36, 0.05), (0.30, 0.66, 0.06), (0.10, 0.82, 0.06), (0.00, 0.70, 0.05)])
    spout = union(spout, chain(x, y, [(0.30, 0.66, 0.06), (0.50, 0.82, 0.06), (0.60, 0.70, 0.05)]))
    return [
        Part(spout, GLASS),
        Part(blend(body, flukes, 0.08), BODY),
        Part(cut(body, ellipse(x, y, 0.30, -0.66, 0.78, 0.42)), LIGHT, False),
        Part(limb(x, y, 0.06, -0.34, -0.16, -0.62, 0.13, 0.06), SHADE),
        Part(circle(x, y, 0.64, -0.08, 0.07), INK, False),
    ]


def butterfly(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a butterfly from above, wings wide."""
    a = x.abs() / (0.92 + 0.10 * beat)
    u, v = turn(a - 0.50, y - 0.36, 35.0)
    p, q = turn(a - 0.40, y + 0.42, -35.0)
    wings = union(ellipse(u, v, 0.0, 0.0, 0.56, 0.40), ellipse(p, q, 0.0, 0.0, 0.42, 0.32))
    feelers = chain(a, y, [(0.02, 0.36, 0.03), (0.12, 0.66, 0.03), (0.26, 0.82, 0.05)])
    return [
        Part(feelers, INK),
        Part(wings, BODY),
        Part(union(ellipse(u, v, 0.14, 0.0, 0.26, 0.19), circle(p, q, 0.12, 0.0, 0.14)), LIGHT, False),
        Part(circle(u, v, 0.20, 0.0, 0.10), DEEP, False),
        Part(limb(x, y, 0.0, 0.34, 0.0, -0.52, 0.11, 0.07), INK),
    ]


def owl(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a plump owl with large eyes."""
    body = blend(ellipse(x, y, 0.0, -0.22, 0.62, 0.66), ellipse(x, y, 0.0, 0.34, 0.56, 0.44), 0.15)
    tufts = polygon(x.abs(), y, [(0.14, 0.66), (0.52, 1.0), (0.56, 0.42)], 0.03)
    discs = circle(x.abs(), y, 0.26, 0.36, 0.26)
    wings = ellipse(x.abs(), y + 0.1 * beat, 0.58, -0.24, 0.18, 0.46)
    feet = ellipse(x.abs(), y, 0.22, -0.88, 0.16, 0.09)
    return [
        Part(feet, AMBER),
        Part(union(body, tufts), BODY),
        Part(ellipse(x, y, 0.04, -0.36, 0.36, 0.42), LIGHT, False),
        Part(wings, SHADE),
        Part(discs, CHALK, False),
        Part(union(circle(x, y, -0.20, 0.36, 0.13), circle(x, y, 0.32, 0.36, 0.13)), INK, False),
        Part(polygon(x, y, [(-0.08, 0.24), (0.16, 0.24), (0.05, 0.02)], 0.02), AMBER, False),
    ]


def snail(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a snail under a coiled shell."""
    stretch = 0.06 * beat
    foot = limb(x, y, -0.92 - stretch, -0.74, 0.56, -0.66, 0.08, 0.20)
    neck = limb(x, y, 0.56, -0.66, 0.74 + stretch, -0.16, 0.22, 0.18)
    stalks = union(
        limb(x, y, 0.70, -0.10, 0.62 + stretch, 0.28, 0.04, 0.06),
        limb(x, y, 0.80, -0.10, 0.92 + stretch, 0.26, 0.04, 0.06),
    )
    shell = circle(x, y, -0.20, 0.02, 0.72)
    coil = union(
        circle(x, y, -0.12, -0.06, 0.46).abs() - 0.045,
        circle(x, y, -0.08, -0.10, 0.20).abs() - 0.045,
    )
    return [
        Part(stalks, LIGHT),
        Part(blend(foot, neck, 0.1), LIGHT),
        Part(shell, BODY),
        Part(coil, DEEP, False),
        Part(circle(x, y, 0.82 + stretch, -0.10, 0.055), INK, False),
    ]


def turtle(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a turtle with a patterned shell."""
    step = 0.10 * beat
    shell = cut(ellipse(x, y, -0.12, -0.34, 0.80, 0.88), -0.34 - y) - 0.03
    legs = union(
        limb(x, y, -0.58, -0.40, -0.64 + step, -0.74, 0.17, 0.15),
        limb(x, y, 0.32, -0.40, 0.40 - step, -0.74, 0.17, 0.15),
    )
    head = blend(limb(x, y, 0.55, -0.36, 0.80, -0.04, 0.16, 0.15), ellipse(x, y, 0.86, 0.02, 0.24, 0.20), 0.08)
    rings = union(
        ellipse(x, y, -0.12, 0.02, 0.24, 0.26).abs() - 0.03,
        limb(x, y, -0.32, -0.12, -0.72, -0.28, 0.03, 0.03),
        limb(x, y, 0.08, -0.12, 0.48, -0.28, 0.03, 0.03),
        limb(x, y, -0.28, 0.20, -0.44, 0.44, 0.03, 0.03),
        limb(x, y, 0.04, 0.20, 0.20, 0.44, 0.03, 0.03),
    )
    return [
        Part(union(legs, head, limb(x, y, -0.80, -0.40, -1.0, -0.54, 0.10, 0.04)), LIGHT),
        Part(shell, BODY),
        Part(cut(rings, shell), DEEP, False),
        Part(cut(shell, y + 0.24), SHADE, False),
        Part(circle(x, y, 0.92, 0.06, 0.06), INK, False),
    ]


def fox(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a fox with a brush tipped white."""
    step = 0.12 * beat
    far = union(
        limb(x, y, -0.30, -0.3, -0.26 - step, -0.82, 0.11, 0.08), limb(x, y, 0.34, -0.3, 0.38 + step, -0.82, 0.11, 0.08)
    )
    near = union(
        limb(x, y, -0.44, -0.3, -0.46 + step, -0.84, 0.13, 0.09), limb(x, y, 0.20, -0.3, 0.18 - step, -0.84, 0.12, 0.09)
    )
    tail = chain(x, y, [(-0.48, -0.10, 0.10), (-0.80, 0.10 + step, 0.22), (-0.94, 0.52 + step, 0.08)])
    body = blend(limb(x, y, -0.34, -0.16, 0.30, -0.10, 0.27, 0.28), limb(x, y, 0.30, 0.0, 0.46, 0.28, 0.24, 0.24), 0.1)
    head = blend(ellipse(x, y, 0.48, 0.38, 0.34, 0.28), limb(x, y, 0.60, 0.32, 0.98, 0.22, 0.16, 0.04), 0.08)
    ears = union(
        polygon(x, y, [(0.16, 0.52), (0.22, 0.96), (0.46, 0.62)], 0.02),
        polygon(x, y, [(0.50, 0.62), (0.68, 0.96), (0.76, 0.52)], 0.02),
    )
    return [
        Part(far, DEEP),
        Part(tail, SHADE),
        Part(circle(x, y, -0.95, 0.56 + step, 0.16), CHALK, False),
        Part(union(body, near), BODY),
        Part(union(head, ears), BODY),
        Part(cut(head, ellipse(x, y, 0.74, 0.12, 0.32, 0.17)), CHALK, False),
        Part(ellipse(x, y, 0.46, -0.14, 0.14, 0.20), LIGHT, False),
        Part(union(circle(x, y, 0.58, 0.44, 0.065), circle(x, y, 1.0, 0.23, 0.07)), INK, False),
    ]


def jellyfish(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a jellyfish trailing wavy arms."""
    sway = 0.06 * (9 * y + 2.5 * beat).sin()
    arms = [limb(x - sway, y, c, 0.1, 1.1 * c, -0.92 + 0.5 * abs(c), 0.10, 0.05) for c in (-0.52, -0.18, 0.18, 0.52)]
    bell = cut(ellipse(x, y, 0.0, 0.06, 0.82 + 0.05 * beat, 0.86), 0.06 - y) - 0.05
    return [
        Part(union(*arms), SHADE),
        Part(bell, BODY),
        Part(cut(bell, y - 0.14), LIGHT, False),
        Part(ellipse(x, y, -0.30, 0.62, 0.16, 0.10), LIGHT, False),
        Part(union(ellipse(x, y, -0.06, 0.36, 0.07, 0.11), ellipse(x, y, 0.30, 0.36, 0.07, 0.11)), INK, False),
    ]


def penguin(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a penguin with a white front."""
    swing = 0.12 * beat
    body = blend(ellipse(x, y, 0.0, -0.22, 0.54, 0.68), ellipse(x, y, 0.04, 0.48, 0.40, 0.40), 0.15)
    flippers = union(
        limb(x, y, -0.44, 0.12, -0.80 + swing, -0.36, 0.15, 0.08),
        limb(x, y, 0.44, 0.12, 0.78 + swing, -0.36, 0.15, 0.08),
    )
    feet = union(ellipse(x, y, -0.20, -0.88, 0.22, 0.09), ellipse(x, y, 0.30, -0.88, 0.22, 0.09))
    return [
        Part(feet, AMBER),
        Part(flippers, SHADE),
        Part(body, BODY),
        Part(ellipse(x, y, 0.10, -0.32, 0.32, 0.48), CHALK, False),
        Part(union(circle(x, y, -0.02, 0.56, 0.12), circle(x, y, 0.28, 0.56, 0.12)), CHALK, False),
        Part(union(circle(x, y, 0.01, 0.56, 0.06), circle(x, y, 0.30, 0.56, 0.06)), INK, False),
        Part(limb(x, y, 0.16, 0.40, 0.48, 0.34, 0.09, 0.02), AMBER),
    ]


def ghost(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a friendly ghost with a frayed hem."""
    hem = -0.72 + 0.10 * (9.5 * x + 2.0 * beat).sin()
    sheet = blend(circle(x, y, 0.0, 0.28, 0.62), box(x, y, 0.0, -0.40, 0.66, 0.60, 0.1), 0.1)
    sheet = cut(sheet, (hem - y) * 0.75)
    arms = union(limb(x, y, -0.50, -0.05, -0.90, 0.12, 0.17, 0.10), limb(x, y, 0.50, -0.05, 0.92, 0.02, 0.17, 0.10))
    return [
        Part(blend(sheet, arms, 0.08), BODY),
        Part(union(ellipse(x, y, -0.08, 0.36, 0.10, 0.16), ellipse(x, y, 0.34, 0.36, 0.10, 0.16)), INK, False),
        Part(ellipse(x, y, 0.14, 0.02, 0.11, 0.12), INK, False),
        Part(union(circle(x, y, -0.28, 0.12, 0.08), circle(x, y, 0.52, 0.12, 0.08)), ROSE, False),
    ]


def snowman(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a snowman with a hat and a carrot."""
    body = blend(
        blend(circle(x, y, 0.0, -0.46, 0.56), circle(x, y, 0.0, 0.10, 0.40), 0.06), circle(x, y, 0.0, 0.48, 0.30), 0.04
    )
    hat = union(box(x, y, 0.0, 0.68, 0.36, 0.05, 0.03), box(x, y, 0.0, 0.84, 0.22, 0.18, 0.03))
    arms = union(
        limb(x, y, -0.32, 0.10, -0.86, 0.36 + 0.1 * beat, 0.05, 0.04),
        limb(x, y, 0.32, 0.10, 0.86, 0.36 - 0.1 * beat, 0.05, 0.04),
    )
    scarf = union(limb(x, y, -0.24, 0.24, 0.26, 0.24, 0.09, 0.09), limb(x, y, -0.18, 0.22, -0.28, -0.14, 0.08, 0.08))
    return [
        Part(arms, INK),
        Part(body, BODY),
        Part(scarf, DEEP, False),
        Part(hat, INK),
        Part(limb(x, y, 0.08, 0.44, 0.46, 0.38, 0.08, 0.02), AMBER),
        Part(union(circle(x, y, -0.04, 0.54, 0.05), circle(x, y, 0.18, 0.54, 0.05)), INK, False),
        Part(
            union(circle(x, y, 0.06, 0.02, 0.05), circle(x, y, 0.06, -0.36, 0.06), circle(x, y, 0.06, -0.62, 0.06)),
            INK,
            False,
        ),
    ]
