"""Draws capsules over a patterned floor by ray casting in numpy; all frames of a clip at once.

Letters: T frames, P capsules, S height and width in pixels, K = S * S rays.
"""

from dataclasses import dataclass

import numpy as np

_LIGHT = np.array([0.4, 0.8, 0.45], np.float32)  # towards the light; its length is 1
_AMBIENT = 0.45
_FAR = 1e6


@dataclass(frozen=True)
class Camera:
    """A camera that looks at a point from a distance, upright.

    azimuth, elevation: of the camera as seen from the point, in radians.
    distance: in metres.
    size: height and width of the picture in pixels.
    view: the tangent of half the angle of view.
    """

    azimuth: float
    elevation: float
    distance: float
    size: int
    view: float = 0.4

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit directions of all pixels, float32 `[K, 3]`, and the camera's place relative to the point, `[3]`."""
        c, s = np.cos(self.elevation), np.sin(self.elevation)
        back = np.array([c * np.cos(self.azimuth), s, c * np.sin(self.azimuth)])
        right = np.array([np.sin(self.azimuth), 0.0, -np.cos(self.azimuth)])
        up = np.cross(back, right)
        axis = ((np.arange(self.size) + 0.5) / self.size * 2 - 1) * self.view
        rays = axis[None, :, None] * right - axis[:, None, None] * up - back
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        return rays.reshape(-1, 3).astype(np.float32), (self.distance * back).astype(np.float32)


@dataclass(frozen=True)
class Floor:
    """The plane y = 0 with waves between two colours, which fade into a third one at the horizon; and the sky's.

    colours: float32 `[3, 3]`: two of the floor, and the sky's, 0 to 255.
    waves: radians per metre along x and z, and their phases, `[2, 2]`.
    """

    colours: np.ndarray
    waves: np.ndarray


def cast(
    ends: np.ndarray, radius: np.ndarray, colours: np.ndarray, centre: np.ndarray, camera: Camera, floor: Floor
) -> np.ndarray:
    """uint8 `[T, S, S, 3]`: capsules with ends `[T, P, 2, 3]`, `radius` `[P]` and `colours` `[P, 3]`, from a camera
    that looks at `centre` `[T, 3]`.

    The ball of a capsule that is nearest to a ray stands for the capsule: outlines are exact, and the shade of a limb
    that points at the camera is approximate.
    """
    rays, place = camera.rays()
    eye = centre + place  # [T, 3]
    frames = _background(rays, eye, centre, floor)  # [T, K, 3]
    near = _near(rays, ends - eye[:, None, None], float(radius.max()))
    if len(near):
        body, hit = _body(ends, radius, colours, eye, rays[near])
        frames[:, near] = np.where(hit[..., None], body, frames[:, near])
    return np.clip(frames, 0, 255).astype(np.uint8).reshape(len(ends), camera.size, camera.size, 3)


def _near(rays: np.ndarray, ends: np.ndarray, radius: float) -> np.ndarray:
    """The numbers of the rays that meet the ball around all capsules of some frame: most rays meet none."""
    middle = ends.mean(axis=(1, 2))  # [T, 3]
    reach = np.linalg.norm(ends - middle[:, None, None], axis=-1).max(axis=(1, 2)) + radius
    along = rays @ middle.T  # [K, T]
    return np.flatnonzero(((middle**2).sum(1) - along**2 < reach**2).any(axis=1))


def _body(
    ends: np.ndarray, radius: np.ndarray, colours: np.ndarray, eye: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The colour `[T, K, 3]` of the nearest capsule on each ray, and whether there is one, `[T, K]`."""
    along, first = ends[:, :, 1] - ends[:, :, 0], ends[:, :, 0] - eye[:, None]  # [T, P, 3]
    along_ray, first_ray = along @ rays.T, first @ rays.T  # [T, P, K]
    squares = [np.einsum("tpc,tpc->tp", x, y)[..., None] for x, y in ((along, along), (first, along), (first, first))]
    length, mixed, distance = squares
    share = np.clip((along_ray * first_ray - mixed) / np.maximum(length - along_ray**2, 1e-9), 0, 1)
    depth = first_ray + share * along_ray  # of the ball's centre along the ray
    inside = radius[:, None] ** 2 - (distance + share * (2 * mixed + share * length)) + depth**2
    surface = np.where((inside > 0) & (depth > 0), depth - np.sqrt(np.maximum(inside, 0)), _FAR)
    nearest = surface.argmin(axis=1)[:, None]  # [T, 1, K]
    found = np.take_along_axis(surface, nearest, 1)[:, 0]  # [T, K]
    at = np.take_along_axis(share, nearest, 1)[:, 0]
    lit = [np.take_along_axis(x @ _LIGHT, nearest[:, 0], 1) for x in (first, along)]
    lit = lit[0] + at * lit[1]  # the ball's centre along the light
    shade = (found * (rays @ _LIGHT) - lit) / radius[nearest[:, 0]]
    shade = _AMBIENT + (1 - _AMBIENT) * np.maximum(shade, 0)
    return shade[..., None] * colours[nearest[:, 0]], found < _FAR


def _background(rays: np.ndarray, eye: np.ndarray, centre: np.ndarray, floor: Floor) -> np.ndarray:
    """float32 `[T, K, 3]`: floor with a round shadow below `centre`, and sky."""
    down = np.maximum(-rays[:, 1], 1e-3)  # [K]
    reach = eye[:, 1:2] / down  # [T, K]
    x, z = (eye[:, i : i + 1] + reach * rays[:, i] for i in (0, 2))
    (fx, fz), (px, pz) = floor.waves.astype(np.float32)
    wave = 0.5 + 0.5 * np.sin(fx * x + px) * np.sin(fz * z + pz)
    wave *= 1 - 0.5 * np.exp(-8 * ((x - centre[:, 0:1]) ** 2 + (z - centre[:, 2:3]) ** 2))
    light, dark, sky = floor.colours.astype(np.float32)
    ground = dark + wave[..., None] * (light - dark)
    seen = np.where(rays[:, 1] < 0, np.exp(-reach / 15), 0)[..., None]  # 15 m away, a third of the pattern is left
    return sky + seen * (ground - sky)
