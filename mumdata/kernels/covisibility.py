"""Inner loops of covisibility: counts of shared points, angles and ratios at them, graphs, parts of sequences.

In: arrays that the caller has checked and scratch that it owns: int32 for images, points and counts, int64 for offsets
into pairs, float64 for measures. Out: arrays that the caller has made, filled. Nothing is allocated here.

Words: `indptr` int64 [n + 1] are the offsets of each image's observations, `point` int32 [m] the points observed. The
track of point p is track[span[p, 0] : span[p, 1]], the images that see it, in rising order.
"""

from __future__ import annotations

import numpy as np

from mumdata.kernels import jit

__all__ = [
    "is_sorted",
    "number_points",
    "count_shared",
    "camera_cosines",
    "measure_shared",
    "middle",
    "two_sides",
    "look_up",
    "measure_sequences",
]

_MOST = (1 << 63) - 1  # int64: higher than all ranks of angles
_SIGN_BIT_OFF = (1 << 63) - 1
_HIGHEST_RANK = (1 << 63) - 2
_RIGHT_ANGLE = 1 << 62  # between the ranks of angles up to 90 degrees, and beyond


@jit
def is_sorted(image, point):  # type: ignore[no-untyped-def]
    """Tell whether observations (image, point), int32 [m] each, rise strictly: sorted, and none twice."""
    wrong = False
    for e in range(1, len(image)):
        same = image[e] == image[e - 1]
        wrong |= (image[e] < image[e - 1]) | (same & (point[e] <= point[e - 1]))
    return not wrong


@jit
def number_points(point, new, numbered, old, span):  # type: ignore[no-untyped-def]
    """Number the points anew in the order in which they first occur, and find where their tracks lie.

    Points that the same images see get numbers near to each other, so that what is known of them lies near in memory
    too; this halves the time of all that follows. `new` int32 [at least max(point) + 1] is scratch of -1; fills
    `numbered` int32 [m], `old` int32 (the former numbers) and `span` int32 [., 2], in which both columns are the end of
    each track: `count_shared` fills the tracks from there. Returns the number of different points.
    """
    num = 0
    for e in range(len(point)):
        p = new[point[e]]
        if p < 0:
            p = num
            new[point[e]] = p
            old[p] = point[e]
            span[p, 1] = 0
            num += 1
        span[p, 1] += 1
        numbered[e] = p
    end = 0
    for p in range(num):
        end += span[p, 1]
        span[p, 0] = end
        span[p, 1] = end
    return num


@jit
def count_shared(indptr, point, span, track, counter, row, stop, b, shared, num_pairs, num_items):  # type: ignore[no-untyped-def]
    """Count what images row - 1, row - 2, ... share with all higher ones; return (row, free), how far it came.

    A row of the sparse product of Gustavson, upper half only: going downwards, each image meets in the tracks just the
    higher ones, and then enters itself in front. It ends at row `stop`, or where `b` and `shared`, int32 [c] with c >=
    number of images, cannot surely hold another row; they are filled from the end down to `free`, rows and columns
    rising. `num_pairs` and `num_items`, int64 [n], get the number of pairs of each row and the sum of their counts;
    `counter` int32 [n] is scratch of zeros and stays so.
    """
    num = len(indptr) - 1
    free = len(b)
    while row > stop and free >= num - row:
        image = row - 1
        for e in range(indptr[image], indptr[row]):
            p = point[e]
            first = span[p, 0]
            for q in range(first, span[p, 1]):
                counter[track[q]] += 1
            track[first - 1] = image
            span[p, 0] = first - 1
        begin = free - (num - row)
        end = begin
        items = 0
        for other in range(row, num):
            count = counter[other]
            counter[other] = 0
            b[end] = other
            shared[end] = count
            end += count > 0
            items += count
        for k in range(end - begin):
            b[free - 1 - k] = b[end - 1 - k]
            shared[free - 1 - k] = shared[end - 1 - k]
        num_pairs[image] = end - begin
        num_items[image] = items
        free -= end - begin
        row = image
    return row, free


@jit
def camera_cosines(matrix, a, b, rotation, axis):  # type: ignore[no-untyped-def]
    """Fill the cosines of pairs (a, b) that `geometry.rotation_cos` and `axis_cos` define, to the bit.

    `matrix` float64 [n, 3, 4], `a` and `b` int32 [k], `rotation` and `axis` float64 [k].
    """
    for k in range(len(a)):
        i, j = a[k], b[k]
        trace = 0.0
        for row in range(3):
            for column in range(3):
                trace += matrix[j, row, column] * matrix[i, row, column]
        product = 0.0
        for column in range(3):
            product += matrix[i, 2, column] * matrix[j, 2, column]
        rotation[k] = _clip((trace - 1.0) / 2.0)
        axis[k] = _clip(product)


@jit
def _clip(value):  # type: ignore[no-untyped-def]
    # written so that NaN stays NaN
    if value < -1.0:
        return -1.0
    if value > 1.0:
        return 1.0
    return value


@jit
def measure_shared(  # type: ignore[no-untyped-def]
    indptr,
    point,
    span,
    track,
    points,
    camera,
    pair_ptr,
    b,
    shared,
    place,
    ratio,
    half,
    half_bits,
    spare,
    spare_bits,
    triangulation,
    scale,
):
    """Fill the cosine of the median triangulation angle, and the lowest ratio of scales, of every pair.

    `span` as `count_shared` leaves it; it is used up. `points` float64 [p, 3] in the world; `camera` float64 [n, 8] is
    the centre in the world, the third row of cam_from_world, and the focal length: positive, or NaN. Rows of pairs are
    pair_ptr[i] : pair_ptr[i + 1], with `b` and `shared` int32 [k]. Scratch: `place` int64 [n], `ratio` float64 [n],
    `half` float64 [items of the largest row], `spare` float64 [largest count of `shared`, rounded up to 32s], and the
    same memory as int64.

    An angle between unit vectors u and v is held as the square of the sine of its half, |u - v|^2 / 4, where it is no
    more than 90 degrees, else as minus the square of the cosine of its half, |u + v|^2 / 4: angles near to 0 and to 180
    degrees stay exact. See `_rank` for their order.
    """
    for i in range(len(indptr) - 1):
        first_pair, end_pair = pair_ptr[i], pair_ptr[i + 1]
        items = 0
        for k in range(first_pair, end_pair):
            place[b[k]] = items
            ratio[b[k]] = np.inf
            items += shared[k]
        cx, cy, cz = camera[i, 0], camera[i, 1], camera[i, 2]
        r0, r1, r2, t, focal = camera[i, 3], camera[i, 4], camera[i, 5], camera[i, 6], camera[i, 7]
        for e in range(indptr[i], indptr[i + 1]):
            p = point[e]
            behind = span[p, 0] + 1  # images up to i have had their turn
            span[p, 0] = behind
            x, y, z = points[p, 0], points[p, 1], points[p, 2]
            ux, uy, uz = x - cx, y - cy, z - cz
            inverse = _inverse_length(ux, uy, uz)
            ux, uy, uz = ux * inverse, uy * inverse, uz * inverse
            depth = (r0 * x + r1 * y + r2 * z + t) / focal
            depth = depth if depth > 0.0 else np.nan  # NaN is lower than no ratio
            for q in range(behind, span[p, 1]):
                j = track[q]
                vx, vy, vz = x - camera[j, 0], y - camera[j, 1], z - camera[j, 2]
                inverse = _inverse_length(vx, vy, vz)
                side = -1.0 if ux * vx + uy * vy + uz * vz < 0.0 else 1.0
                inverse *= side
                dx, dy, dz = ux - vx * inverse, uy - vy * inverse, uz - vz * inverse
                square = 0.25 * (dx * dx + dy * dy + dz * dz)
                half[place[j]] = side * square
                place[j] += square == square  # NaN: no ray, overwritten by the next
                other = (camera[j, 3] * x + camera[j, 4] * y + camera[j, 5] * z + camera[j, 6]) / camera[j, 7]
                other = other if other > 0.0 else np.nan
                over, under = other / depth, depth / other  # both, and the higher: no branch to mispredict
                quotient = over if over > under else under
                ratio[j] = quotient if quotient < ratio[j] else ratio[j]
        begin = 0
        for k in range(first_pair, end_pair):
            j = b[k]
            triangulation[k] = _cos_of_median(half_bits, begin, place[j], spare, spare_bits)
            scale[k] = ratio[j] if ratio[j] < np.inf else np.nan
            begin += shared[k]


@jit
def _inverse_length(x, y, z):  # type: ignore[no-untyped-def]
    # NaN where there is no direction, or none that can be told
    length = np.sqrt(x * x + y * y + z * z)
    return 1.0 / (length if (length > 0.0) & (length < np.inf) else np.nan)


@jit
def _cos_of_median(half_bits, begin, end, spare, spare_bits):  # type: ignore[no-untyped-def]
    """Return the cosine of the median of the angles `begin` to `end`, held as `measure_shared` says."""
    if begin == end:
        return np.nan
    low, high = middle(half_bits, begin, end, spare_bits)
    low_obtuse, high_obtuse = low > _RIGHT_ANGLE, high > _RIGHT_ANGLE
    spare_bits[0] = _HIGHEST_RANK - low if low_obtuse else low
    spare_bits[1] = _HIGHEST_RANK - high if high_obtuse else high
    if low_obtuse == high_obtuse:
        cos = _cos_of_mean(spare[0], spare[1])
        return -cos if low_obtuse else cos
    # cos cos - sin sin of the halves of both angles
    return np.sqrt((1.0 - spare[0]) * spare[1]) - np.sqrt(spare[0] * (1.0 - spare[1]))


@jit
def _cos_of_mean(x, y):  # type: ignore[no-untyped-def]
    """Return the cosine of the mean of two angles up to 90 degrees, given by the squared sines of their halves."""
    if x == y:
        return 1.0 - 2.0 * x
    # 1 - (cos cos - sin sin) of the halves, without the difference of two numbers near 1
    less = (x + y - x * y) / (1.0 + np.sqrt((1.0 - x) * (1.0 - y))) + np.sqrt(x * y)
    return 1.0 - less


@jit
def _rank(bits):  # type: ignore[no-untyped-def]
    """Turn the bits of an angle's number, as `measure_shared` holds it, into an int64 >= 0 that rises with the angle.

    Bits of positive floats rise as the floats do; those of negative ones, without their sign, fall as the angle rises.
    """
    return bits if bits >= 0 else _HIGHEST_RANK - (bits & _SIGN_BIT_OFF)


@jit
def middle(v, begin, end, spare):  # type: ignore[no-untyped-def]
    """Return the ranks (`_rank`) of number (n - 1) // 2 and n // 2 in order among v[begin:end], int64, n >= 1.

    Whole numbers are compared, counted and reduced many at a time, without a branch to mispredict: halving the range
    between two of the values until nothing lies inside takes less time than parting the values, as quickselect does.
    `spare` int64 has room for n rounded up to 32s.
    """
    num = end - begin
    low, high = (num - 1) // 2, num // 2
    first = last = _rank(v[begin])
    for k in range(num):
        value = _rank(v[begin + k])
        spare[k] = value
        first = min(first, value)
        last = max(last, value)
    padded = (num + 31) // 32 * 32  # a whole number of vectors: no slow rest
    for k in range(num, padded):
        spare[k] = _MOST
    while first < last:  # both ranks are between values `first` and `last`
        half = first + (last - first) // 2
        count, below, above = 0, first, last
        for k in range(padded):
            value = spare[k]
            inside = value <= half
            count += inside
            below = max(below, value if inside else first)
            above = min(above, last if inside else value)
        if count > high:
            last = below
        elif count <= low:
            first = above
        else:
            return below, above
    return first, first


@jit
def two_sides(a, b, overlap_ab, overlap_ba, indptr, free, other, overlap, pair):  # type: ignore[no-untyped-def]
    """Fill the graph of pairs from both sides; False, and nothing filled, where they are not sorted with a < b.

    `indptr` int64 [n + 1] is of zeros and filled too, `free` int64 [n] is scratch, `other` int32, `overlap` float64 and
    `pair` int64 are [2k]. The caller has made sure that all of `a` and `b` are in 0 .. n - 1.
    """
    num = len(indptr) - 1
    for k in range(len(a)):
        if a[k] >= b[k] or (k > 0 and (a[k] < a[k - 1] or (a[k] == a[k - 1] and b[k] <= b[k - 1]))):
            return False
        indptr[a[k] + 1] += 1
        indptr[b[k] + 1] += 1
    for i in range(num):
        free[i] = indptr[i]
        indptr[i + 1] += indptr[i]
    for k in range(len(a)):  # lower neighbours come first; the order of the pairs lets them rise
        at = free[b[k]]
        free[b[k]] = at + 1
        other[at] = a[k]
        overlap[at] = overlap_ba[k]
        pair[at] = k
    for k in range(len(a)):
        at = free[a[k]]
        free[a[k]] = at + 1
        other[at] = b[k]
        overlap[at] = overlap_ab[k]
        pair[at] = k
    return True


@jit
def look_up(a, b, indptr, other, overlap, num_points, found):  # type: ignore[no-untyped-def]
    """Fill the overlap a->b of images int64 [k], `found` float64 [k]: 1 of what sees anything with itself."""
    for k in range(len(a)):
        i, j = a[k], b[k]
        low, end = indptr[i], indptr[i + 1]
        if i == j:
            found[k] = 1.0 if num_points[i] > 0 or low < end else 0.0
            continue
        high = end
        while low < high:
            middle = (low + high) // 2
            if other[middle] < j:
                low = middle + 1
            else:
                high = middle
        found[k] = overlap[low] if low < end and other[low] == j else 0.0


@jit
def measure_sequences(  # type: ignore[no-untyped-def]
    indptr, other, overlap, start, frames, threshold, dense, first, after, owner, parent, total, num_linked, num_parts
):
    """Sum the overlaps among the frames of each sequence, count the linked ordered pairs and the connected parts.

    Sequence s is frames[start[s] : start[s + 1]], int32, rising and distinct; `total` float64 and `num_linked` int64
    [s] are of zeros, `num_parts` int64 [s] of the numbers of frames. It goes image after image and spreads out the
    overlaps of each once for all sequences that hold it; each sum runs over (frame, frame) in rising order, and knows
    nothing of the other sequences. Scratch: `dense` float64 [n] of zeros, `first` int64 [n] of -1, `after`, `owner`
    and `parent` int64 [f].
    """
    for s in range(len(start) - 1):
        for f in range(start[s], start[s + 1]):  # each image gets the list of its places in sequences
            after[f] = first[frames[f]]
            first[frames[f]] = f
            owner[f] = s
            parent[f] = f
    for image in range(len(first)):
        if first[image] < 0:
            continue
        for k in range(indptr[image], indptr[image + 1]):
            dense[other[k]] = overlap[k]
        f = first[image]
        while f >= 0:
            s = owner[f]
            amount, linked = total[s], 0
            for g in range(start[s], start[s + 1]):
                value = dense[frames[g]]
                amount += value
                linked += value >= threshold
            total[s] = amount
            num_linked[s] += linked
            if linked > 0 and num_parts[s] > 1:
                for g in range(start[s], start[s + 1]):
                    if dense[frames[g]] >= threshold:
                        num_parts[s] -= _join(parent, f, g)
            f = after[f]
        for k in range(indptr[image], indptr[image + 1]):
            dense[other[k]] = 0.0


@jit
def _join(parent, f, g):  # type: ignore[no-untyped-def]
    """Make two members' parts one; return 1 where they were two. The lower root stays, paths are halved on the way."""
    while parent[f] != f:
        parent[f] = parent[parent[f]]
        f = parent[f]
    while parent[g] != g:
        parent[g] = parent[parent[g]]
        g = parent[g]
    if f == g:
        return 0
    parent[max(f, g)] = min(f, g)
    return 1
