"""The wording of questions, and arithmetic as a chain of thought writes it."""

import math

from perception_r1.world.scene import Work, angle_name


def integer(number: float) -> int:
    """The number as a positive whole number.

    Raises:
        ValueError: it is not one.
    """
    if number <= 0 or number != int(number):
        raise ValueError(f"{number} is not a positive whole number")
    return int(number)


def inside(angle: float) -> int:
    """An angle of a figure: whole, and between 0 and 180 degrees."""
    if angle >= 180:
        raise ValueError(f"{angle} degrees is no angle of a figure")
    return integer(angle)


# --- questions -------------------------------------------------------------------------------------


def segment_name(ab: str) -> str:
    """AB for BA."""
    return "".join(sorted(ab))


def ask_length(ab: str) -> str:
    """The question for a length."""
    return f"What is the length of segment {segment_name(ab)}?"


def ask_angle(abc: str) -> str:
    """The question for an angle."""
    return f"What is the measure of angle {angle_name(abc)} in degrees?"


def ask_size(size: str, corners: str) -> str:
    """The question for the perimeter or area of a triangle or quadrilateral, corners in their order."""
    figure = "triangle" if len(corners) == 3 else "quadrilateral"
    return f"What is the {size} of {figure} {going_round(corners)}?"


def going_round(names: str) -> str:
    """A polygon's name from its first letter, in the direction of the earlier neighbour."""
    k = names.index(min(names))
    names = names[k:] + names[:k]
    return min(names, names[0] + names[:0:-1])


# --- sentences of the computation ------------------------------------------------------------------


def so_length(ab: str, value: int) -> str:
    """A length that was worked out."""
    return f"So the length of segment {segment_name(ab)} is {value}."


def so_angle(abc: str, value: int) -> str:
    """An angle that was worked out."""
    return f"So the measure of angle {angle_name(abc)} is {value}."


def added(*parts: int) -> str:
    """3 + 4 = 7."""
    return f"{' + '.join(map(str, parts))} = {sum(parts)}"


def perimeter_of(*sides: int) -> Work:
    """The sum of the sides."""
    return [f"The perimeter is {added(*sides)}."], sum(sides)


def length_is(text: str, size: float, ab: str) -> Work:
    """A length, by the computation in `text`."""
    return [f"{text} = {integer(size)}.", so_length(ab, integer(size))], integer(size)


def angle_is(text: str, size: float, abc: str) -> Work:
    """An angle, by the computation in `text`."""
    return [f"{text} = {inside(size)}.", so_angle(abc, inside(size))], inside(size)


def by_pythagoras(one: int, sign: str, other: int, ab: str) -> Work:
    """The third side AB of a right triangle: "+" for the hypotenuse, "-" for a leg; ValueError if it is not whole."""
    square = one * one + other * other if sign == "+" else one * one - other * other
    side = integer(math.sqrt(integer(square)))
    return [f"{one}^2 {sign} {other}^2 = {square} = {side}^2.", so_length(ab, side)], side


def then(first: list[str], last: Work) -> Work:
    """Two steps of a computation."""
    return [*first, *last[0]], last[1]
