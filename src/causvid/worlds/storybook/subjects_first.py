"""Draw the eight subjects every world has. Legend: see paint.Draw."""

from torch import Tensor

from .paint import AMBER, BODY, CHALK, CREAM, DEEP, FLAME, GLASS, INK, IVORY, LIGHT, ROSE, SHADE, SPOT, Part
from .sdf import blend, box, chain, circle, cut, ellipse, limb, polygon, star, turn, union


def swan(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a swan with a curved neck and a half-raised wing."""
    body = ellipse(x, y, -0.08, -0.45, 0.72, 0.40)
    tail = limb(x, y, -0.55, -0.40, -1.0, -0.02, 0.24, 0.03)
    neck = chain(x, y, [(0.42, -0.40, 0.24), (0.62, -0.02, 0.15), (0.42, 0.32, 0.12), (0.46, 0.66, 0.13)])
    neck = blend(neck, ellipse(x, y, 0.58, 0.72, 0.22, 0.18), 0.08)
    lift = 0.14 * beat
    wing = chain(x, y, [(0.12, -0.42, 0.22), (-0.30, -0.18 + lift, 0.24), (-0.82, 0.24 + 2 * lift, 0.05)])
    wing = blend(wing, limb(x, y, -0.15, -0.34, -0.78, 0.02 + lift, 0.22, 0.05), 0.06)
    return [
        Part(limb(x, y, 0.72, 0.70, 1.0, 0.60, 0.08, 0.03), AMBER),
        Part(blend(blend(body, tail, 0.15), neck, 0.14), BODY),
        Part(wing, SHADE),
        Part(wing + 0.07, BODY, False),
        Part(circle(x, y, 0.62, 0.76, 0.055), INK, False),
    ]


def paper_airplane(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a folded dart seen a little from above."""
    far = polygon(x, y, [(1.02, 0.38), (-1.02, 0.62), (-0.40, -0.02)], 0.015)
    fold = polygon(x, y, [(1.02, 0.38), (-0.40, -0.02), (-0.44, -0.66)], 0.015)
    near = polygon(x, y, [(1.02, 0.38), (-0.16, -0.16), (0.34, -0.82)], 0.015)
    crease = limb(x, y, 1.0, 0.37, -0.18, -0.17, 0.005, 0.03)
    return [Part(fold, DEEP), Part(far, BODY), Part(near, BODY), Part(crease, DEEP, False)]


def woolly_mammoth(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a shaggy mammoth with a domed head, a trunk and curling tusks."""
    step = 0.14 * beat
    far_legs = union(
        limb(x, y, -0.42, -0.3, -0.40 - step, -0.80, 0.17, 0.15), limb(x, y, 0.22, -0.3, 0.28 + step, -0.80, 0.16, 0.14)
    )
    near_legs = union(
        limb(x, y, -0.62, -0.3, -0.64 + step, -0.82, 0.20, 0.17), limb(x, y, 0.04, -0.3, 0.02 - step, -0.82, 0.20, 0.17)
    )
    fringe = 0.035 * (x * 21).sin() * (-1.5 * y - 0.1).clamp(0, 1)
    body = blend(ellipse(x, y, -0.28, -0.06, 0.66, 0.50) + fringe, ellipse(x, y, 0.12, 0.22, 0.42, 0.48), 0.2)
    head = blend(ellipse(x, y, 0.50, 0.30, 0.34, 0.40), circle(x, y, 0.46, 0.66, 0.20), 0.16)
    trunk = chain(
        x, y, [(0.70, 0.22, 0.20), (0.86, -0.14, 0.14), (0.82, -0.50, 0.10), (0.96, -0.66 + 0.4 * step, 0.08)]
    )
    tusk = chain(x, y, [(0.60, -0.02, 0.06), (0.70, -0.34, 0.07), (0.94, -0.38, 0.06), (1.10, -0.14, 0.03)])
    return [
        Part(far_legs, DEEP),
        Part(limb(x, y, -0.90, 0.10, -1.02, -0.34 + step, 0.05, 0.06), SHADE),
        Part(union(near_legs, body), BODY),
        Part(blend(head, trunk, 0.12), BODY),
        Part(ellipse(x, y, 0.26, 0.26, 0.15, 0.24), SHADE, False),
        Part(tusk, IVORY),
        Part(circle(x, y, 0.60, 0.34, 0.06), INK, False),
    ]


def fish(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a round fish with a forked tail."""
    bent = y + 0.22 * beat * (-0.3 - x).clamp_min(0)
    tail = polygon(x, bent, [(-0.40, 0.0), (-1.02, 0.58), (-0.84, 0.0), (-1.02, -0.58)], 0.04)
    body = cut(circle(x, y, 0.16, -0.42, 0.98), circle(x, y, 0.16, 0.42, 0.98))
    fins = union(
        polygon(x, y, [(0.34, 0.40), (-0.12, 0.92), (-0.34, 0.30)], 0.04),
        polygon(x, y, [(0.26, -0.40), (-0.10, -0.82), (-0.26, -0.34)], 0.04),
    )
    stripe = cut((circle(x, y, -0.62, 0.0, 0.62)).abs() - 0.055, body + 0.03)
    gills = cut((circle(x, y, 0.10, 0.0, 0.36)).abs() - 0.035, 0.25 - x)
    return [
        Part(union(tail, fins), SHADE),
        Part(body - 0.02, BODY),
        Part(stripe, LIGHT, False),
        Part(cut(gills, body + 0.1), DEEP, False),
        Part(circle(x, y, 0.66, 0.12, 0.14), CHALK, False),
        Part(circle(x, y, 0.69, 0.12, 0.075), INK, False),
    ]


def rocket(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a finned rocket that climbs to the right on a short flame."""
    u, v = turn(0.88 * x - 0.06, 0.88 * y - 0.06, -32.0)
    hull = cut(circle(u, v, -0.62, 0.10, 1.0), circle(u, v, 0.62, 0.10, 1.0))
    hull = cut(hull, -0.58 - v)
    fins = union(
        polygon(u, v, [(-0.20, -0.06), (-0.64, -0.52), (-0.62, -0.88), (-0.18, -0.56)], 0.03),
        polygon(u, v, [(0.20, -0.06), (0.64, -0.52), (0.62, -0.88), (0.18, -0.56)], 0.03),
    )
    flame = limb(u, v, 0.0, -0.66, 0.0, -0.96 - 0.10 * beat, 0.17, 0.03)
    nose = cut(hull, 0.54 - v)
    return [
        Part(flame, AMBER),
        Part(flame + 0.08, FLAME, False),
        Part(fins, SHADE),
        Part(hull - 0.03, BODY),
        Part(nose, DEEP, False),
        Part(circle(u, v, 0.0, 0.14, 0.20), DEEP, False),
        Part(circle(u, v, 0.0, 0.14, 0.145), GLASS, False),
    ]


def cat(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a sitting cat whose tail curls up behind it."""
    wag = 0.10 * beat
    tail = chain(
        x, y, [(-0.30, -0.78, 0.12), (-0.78, -0.70, 0.11), (-0.94 + wag, -0.28, 0.10), (-0.72 + 2 * wag, 0.06, 0.09)]
    )
    body = blend(ellipse(x, y, -0.06, -0.52, 0.50, 0.42), limb(x, y, 0.04, -0.30, 0.18, 0.12, 0.36, 0.24), 0.15)
    paws = union(ellipse(x, y, 0.20, -0.86, 0.17, 0.10), ellipse(x, y, 0.46, -0.86, 0.17, 0.10))
    head = ellipse(x, y, 0.28, 0.36, 0.46, 0.36)
    ears = union(
        polygon(x, y, [(-0.14, 0.46), (-0.10, 0.94), (0.24, 0.66)], 0.02),
        polygon(x, y, [(0.36, 0.66), (0.68, 0.94), (0.70, 0.44)], 0.02),
    )
    return [
        Part(tail, SHADE),
        Part(body, BODY),
        Part(paws, LIGHT),
        Part(ellipse(x, y, 0.28, -0.36, 0.17, 0.28), LIGHT, False),
        Part(union(head, ears), BODY),
        Part(ellipse(x, y, 0.40, 0.22, 0.20, 0.13), LIGHT, False),
        Part(union(circle(x, y, 0.18, 0.42, 0.075), circle(x, y, 0.54, 0.42, 0.075)), INK, False),
        Part(circle(x, y, 0.40, 0.27, 0.055), ROSE, False),
    ]


def mushroom(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a toadstool with a spotted cap and a small face on its stem."""
    stem = limb(x, y, 0.0, 0.0, 0.0, -0.62, 0.30, 0.36)
    cap = cut(ellipse(x, y, 0.0, -0.12, 1.02, 1.06), box(x, y, 0.0, 0.48, 1.1, 0.62, 0.1)) - 0.02
    rim = cut(cap, y - 0.02)
    spots = union(
        ellipse(x, y, 0.06, 0.56, 0.22, 0.18),
        ellipse(x, y, -0.52, 0.26, 0.17, 0.16),
        ellipse(x, y, 0.60, 0.24, 0.15, 0.15),
    )
    return [
        Part(stem, CREAM),
        Part(cap, BODY),
        Part(rim, DEEP, False),
        Part(spots, SPOT, False),
        Part(union(circle(x, y, 0.0, -0.42, 0.075), circle(x, y, 0.24, -0.42, 0.075)), INK, False),
    ]


def five_pointed_star(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a plump star with a face."""
    body = star(x, y + 0.06, 0.95, 0.52) - 0.09
    return [
        Part(body, BODY),
        Part(star(x, y + 0.06, 0.66, 0.52) - 0.05, LIGHT, False),
        Part(star(x, y + 0.06, 0.56, 0.52) - 0.05, BODY, False),
        Part(union(ellipse(x, y, -0.06, 0.06, 0.07, 0.12), ellipse(x, y, 0.30, 0.06, 0.07, 0.12)), INK, False),
        Part(cut(circle(x, y, 0.12, -0.16, 0.13), y + 0.16), INK, False),
    ]
