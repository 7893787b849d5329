"""Draw the other things. Legend: see paint.Draw."""

from torch import Tensor

from .paint import AMBER, BODY, CHALK, DEEP, FLAME, GLASS, INK, LIGHT, ROSE, SHADE, STEEL, WOOD, Part
from .sdf import blend, box, chain, circle, cut, ellipse, limb, polygon, union


def hot_air_balloon(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a striped balloon with its basket."""
    envelope = blend(circle(x, y, 0.0, 0.34, 0.66), limb(x, y, 0.0, 0.10, 0.0, -0.38, 0.44, 0.16), 0.2)
    stripes = union(
        cut(ellipse(x, y, 0.0, 0.24, 0.20, 0.90), envelope),
        cut(ellipse(x, y, 0.0, 0.24, 0.52, 0.90).abs() - 0.05, envelope),
    )
    ropes = limb(x.abs(), y, 0.16, -0.42, 0.13, -0.72, 0.025, 0.025)
    return [
        Part(ropes, INK),
        Part(box(x, y, 0.0, -0.80, 0.20, 0.15, 0.04), WOOD),
        Part(envelope, BODY),
        Part(stripes, LIGHT, False),
        Part(cut(envelope, y + 0.36), DEEP, False),
    ]


def tree(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a round-topped tree with fruit."""
    trunk = limb(x, y, 0.0, 0.0, 0.0, -0.82, 0.13, 0.18)
    crown = union(circle(x, y, 0.0, 0.46, 0.50), circle(x, y, -0.48, 0.14, 0.42), circle(x, y, 0.48, 0.14, 0.42))
    crown = blend(crown, ellipse(x, y, 0.0, 0.08, 0.5, 0.32), 0.1)
    fruit = union(
        circle(x, y, -0.48, 0.22, 0.09),
        circle(x, y, 0.06, 0.60, 0.09),
        circle(x, y, 0.52, 0.12, 0.09),
        circle(x, y, 0.0, 0.12, 0.09),
    )
    return [Part(trunk, WOOD), Part(crown, BODY), Part(fruit, LIGHT, False)]


def house(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a house with a pitched roof and a chimney."""
    roof = polygon(x, y, [(-0.96, 0.08), (0.0, 0.88), (0.96, 0.08)], 0.05)
    windows = box(x, y, 0.32, -0.26, 0.18, 0.18, 0.02)
    return [
        Part(box(x, y, 0.48, 0.60, 0.12, 0.30), SHADE),
        Part(box(x, y, 0.0, -0.38, 0.74, 0.52, 0.04), BODY),
        Part(roof, DEEP),
        Part(box(x, y, -0.28, -0.54, 0.17, 0.36, 0.04), WOOD, False),
        Part(windows, FLAME, False),
        Part(union(box(x, y, 0.32, -0.26, 0.02, 0.18), box(x, y, 0.32, -0.26, 0.18, 0.02)), INK, False),
        Part(circle(x, y, 0.0, 0.40, 0.13), FLAME, False),
    ]


def boat(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a sailing boat under two sails."""
    hull = polygon(x, y, [(-0.90, -0.44), (1.0, -0.40), (0.62, -0.84), (-0.66, -0.84)], 0.04)
    main = polygon(x, y, [(-0.06, 0.96), (-0.06, -0.26), (-0.82, -0.26)], 0.03)
    jib = polygon(x, y, [(0.08, 0.82), (0.08, -0.26), (0.84, -0.26)], 0.03)
    return [
        Part(limb(x, y, 0.01, 0.98, 0.01, -0.46, 0.045, 0.045), WOOD),
        Part(main, BODY),
        Part(jib, LIGHT),
        Part(hull, BODY),
        Part(cut(hull, -0.56 - y), SHADE, False),
    ]


def car(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a small round car."""
    body = box(x, y, 0.0, -0.22, 1.0, 0.32, 0.24)
    cabin = polygon(x, y, [(-0.62, 0.02), (-0.38, 0.46), (0.26, 0.46), (0.58, 0.02)], 0.10)
    panes = union(
        polygon(x, y, [(-0.46, 0.08), (-0.32, 0.40), (-0.08, 0.40), (-0.08, 0.08)], 0.02),
        polygon(x, y, [(0.06, 0.08), (0.06, 0.40), (0.20, 0.40), (0.42, 0.08)], 0.02),
    )
    wheels = circle(x.abs(), y, 0.54, -0.52, 0.26)
    hubs = circle(x.abs(), y, 0.54, -0.52, 0.11)
    return [
        Part(blend(body, cabin, 0.06), BODY),
        Part(panes, GLASS, False),
        Part(wheels, INK),
        Part(hubs, CHALK, False),
        Part(ellipse(x, y, 0.92, -0.14, 0.09, 0.11), FLAME, False),
        Part(limb(x, y, -0.2, -0.30, 0.2, -0.30, 0.025, 0.025), DEEP, False),
    ]


def cactus(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a cactus with two arms and a flower."""
    stem = limb(x, y, 0.0, -0.78, 0.0, 0.58, 0.27, 0.25)
    arms = union(
        chain(x, y, [(-0.10, -0.26, 0.15), (-0.60, -0.22, 0.16), (-0.64, 0.26, 0.15)]),
        chain(x, y, [(0.10, -0.06, 0.15), (0.58, -0.02, 0.16), (0.62, 0.50, 0.15)]),
    )
    ribs = union(limb(x, y, -0.10, -0.80, -0.10, 0.62, 0.02, 0.02), limb(x, y, 0.10, -0.80, 0.10, 0.62, 0.02, 0.02))
    return [
        Part(blend(stem, arms, 0.06), BODY),
        Part(ribs, DEEP, False),
        Part(
            union(circle(x, y, -0.12, 0.84, 0.12), circle(x, y, 0.12, 0.84, 0.12), circle(x, y, 0.0, 0.94, 0.11)), ROSE
        ),
        Part(circle(x, y, 0.0, 0.86, 0.07), FLAME, False),
    ]


def umbrella(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw an open umbrella with a hooked handle."""
    canopy = cut(ellipse(x, y, 0.0, 0.04, 1.0, 0.88), 0.04 - y)
    a = (x + 1.0) * 1.5
    scallop = circle(a - a.floor(), y * 1.5, 0.5, 0.0, 0.5) / 1.5
    canopy = cut(canopy, -scallop * 0.8)
    gores = cut(ellipse(x, y, 0.0, 0.04, 0.33, 0.90), canopy)
    handle = chain(
        x, y, [(0.0, 0.80, 0.05), (0.0, -0.72, 0.05), (0.10, -0.88, 0.05), (0.26, -0.84, 0.05), (0.28, -0.68, 0.05)]
    )
    return [
        Part(handle, WOOD),
        Part(limb(x, y, 0.0, 0.90, 0.0, 1.0, 0.05, 0.03), STEEL),
        Part(canopy, BODY),
        Part(gores, LIGHT, False),
    ]


def robot(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a boxy robot with an antenna."""
    swing = 0.14 * beat
    arms = union(
        limb(x, y, -0.54, 0.02, -0.80 + swing, -0.44, 0.10, 0.12),
        limb(x, y, 0.54, 0.02, 0.80 + swing, -0.44, 0.10, 0.12),
    )
    legs = union(
        limb(x, y, -0.24, -0.5, -0.26 + swing, -0.84, 0.13, 0.16),
        limb(x, y, 0.24, -0.5, 0.26 - swing, -0.84, 0.13, 0.16),
    )
    return [
        Part(union(arms, legs), STEEL),
        Part(limb(x, y, 0.0, 0.78, 0.0, 0.94, 0.04, 0.04), STEEL),
        Part(circle(x, y, 0.0, 0.98, 0.09), AMBER),
        Part(box(x, y, 0.0, -0.22, 0.50, 0.42, 0.10), BODY),
        Part(box(x, y, 0.0, 0.48, 0.56, 0.34, 0.14), BODY),
        Part(box(x, y, 0.10, 0.48, 0.40, 0.20, 0.08), INK, False),
        Part(union(circle(x, y, -0.06, 0.50, 0.10), circle(x, y, 0.28, 0.50, 0.10)), FLAME, False),
        Part(box(x, y, 0.0, -0.20, 0.28, 0.20, 0.05), LIGHT, False),
        Part(union(circle(x, y, -0.12, -0.20, 0.07), circle(x, y, 0.12, -0.20, 0.07)), DEEP, False),
    ]


def teapot(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a round teapot."""
    body = ellipse(x, y, -0.06, -0.24, 0.66, 0.56)
    spout = chain(x, y, [(0.40, -0.36, 0.18), (0.70, -0.14, 0.12), (0.80, 0.18, 0.08), (0.94, 0.26, 0.07)])
    handle = ellipse(x, y, -0.68, -0.14, 0.28, 0.36).abs() - 0.075
    lid = cut(ellipse(x, y, -0.06, 0.20, 0.40, 0.24), 0.20 - y) - 0.03
    band = cut((y + 0.22).abs() - 0.09, body)
    return [
        Part(handle, SHADE),
        Part(blend(body, spout, 0.10), BODY),
        Part(lid, SHADE),
        Part(circle(x, y, -0.06, 0.54, 0.11), BODY),
        Part(band, LIGHT, False),
        Part(box(x, y, -0.06, -0.80, 0.34, 0.05, 0.03), DEEP),
    ]


def crown(x: Tensor, y: Tensor, beat: Tensor) -> list[Part]:
    """Draw a crown with jewels."""
    points = [(-0.80, -0.62), (0.80, -0.62), (0.98, 0.50), (0.46, 0.02), (0.0, 0.74), (-0.46, 0.02), (-0.98, 0.50)]
    balls = union(circle(x.abs(), y, 0.96, 0.56, 0.12), circle(x, y, 0.0, 0.82, 0.13))
    jewels = union(circle(x.abs(), y, 0.48, -0.46, 0.09), circle(x, y, 0.0, -0.46, 0.10))
    body = polygon(x, y, points, 0.04)
    return [
        Part(body, BODY),
        Part(cut(body, y + 0.26), SHADE, False),
        Part(jewels, GLASS, False),
        Part(circle(x, y, 0.0, 0.06, 0.14), ROSE, False),
        Part(balls, LIGHT),
    ]
