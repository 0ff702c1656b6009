"""All families of figures, and what each is asked."""

from collections.abc import Callable, Mapping

from perception_r1.world import (
    circles,
    parallel_lines,
    quadrilaterals,
    right_triangles,
    triangles,
)
from perception_r1.world.scene import Question
from perception_r1.world.sketch import Sketch

FAMILIES: Mapping[str, Mapping[str, Callable[[Sketch], Question]]] = {
    "triangle": {
        "perimeter": triangles.perimeter,
        "two sides": triangles.two_sides,
        "isosceles perimeter": triangles.isosceles_perimeter,
        "midsegment": triangles.midsegment,
        "side of parts": triangles.side_of_parts,
        "perimeter of parts": triangles.perimeter_of_parts,
        "area": triangles.area,
        "third angle": triangles.third_angle,
        "exterior angle": triangles.exterior_angle,
        "isosceles base angle": triangles.isosceles_base,
        "isosceles top angle": triangles.isosceles_top,
    },
    "right_triangle": {
        "hypotenuse": right_triangles.missing_hypotenuse,
        "leg": right_triangles.missing_leg,
        "perimeter": right_triangles.perimeter,
        "area": right_triangles.area,
        "area by hypotenuse": right_triangles.area_by_hypotenuse,
        "acute angle": right_triangles.acute_angle,
        "median": right_triangles.median,
    },
    "rectangle": {
        "perimeter": quadrilaterals.rectangle_perimeter,
        "area": quadrilaterals.rectangle_area,
        "diagonal": quadrilaterals.rectangle_diagonal,
        "opposite side": quadrilaterals.rectangle_side,
    },
    "parallelogram": {
        "perimeter": quadrilaterals.parallelogram_perimeter,
        "area": quadrilaterals.parallelogram_area,
        "neighbour angle": quadrilaterals.parallelogram_neighbour,
        "opposite angle": quadrilaterals.parallelogram_opposite,
        "diagonal": quadrilaterals.parallelogram_diagonal,
        "both diagonals": quadrilaterals.parallelogram_diagonals,
    },
    "trapezoid": {
        "perimeter": quadrilaterals.trapezoid_perimeter,
        "isosceles perimeter": quadrilaterals.trapezoid_isosceles,
        "area": quadrilaterals.trapezoid_area,
        "midsegment": quadrilaterals.trapezoid_midsegment,
        "base": quadrilaterals.trapezoid_base,
        "angle": quadrilaterals.trapezoid_angle,
    },
    "circle": {
        "diameter": circles.diameter,
        "radius": circles.radius,
        "chord": circles.chord,
        "chord distance": circles.chord_distance,
        "triangle perimeter": circles.triangle_perimeter,
        "triangle base angle": circles.triangle_base,
        "inscribed angle": circles.inscribed_angle,
        "semicircle": circles.semicircle,
    },
    "parallel_lines": {
        "corresponding": parallel_lines.corresponding,
        "alternate": parallel_lines.alternate,
        "same side": parallel_lines.same_side,
        "two steps": parallel_lines.two_steps,
    },
}
