"""All families of figures, and what each is asked."""

from collections.abc import Callable, Mapping

from perception_r1.world import circles, parallel_lines, polygons, side_sums
from perception_r1.world.scene import Question
from perception_r1.world.sketch import Sketch

FAMILIES: Mapping[str, Mapping[str, Callable[[Sketch], Question]]] = {
    "triangle": {
        "perimeter": polygons.triangle_perimeter,
        "two sides": polygons.two_sides,
        "third angle": polygons.third_angle,
        "exterior angle": polygons.exterior_angle,
        "isosceles base angle": polygons.isosceles_base,
    },
    "right_triangle": {
        "hypotenuse": polygons.missing_hypotenuse,
        "leg": polygons.missing_leg,
    },
    "rectangle": {
        "perimeter": polygons.rectangle_perimeter,
        "area": polygons.rectangle_area,
    },
    "parallelogram": {"diagonal": polygons.parallelogram_diagonal},
    "circle": {
        "diameter": circles.diameter,
        "inscribed angle": circles.inscribed_angle,
        "semicircle": circles.semicircle,
    },
    "parallel_lines": {
        "corresponding": parallel_lines.corresponding,
        "same side": parallel_lines.same_side,
    },
    "side_sums": {
        "sum": side_sums.exact_sum,
        "even or odd": side_sums.even_or_odd,
        "remainder": side_sums.remainder,
    },
}
