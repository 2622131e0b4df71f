"""The loss curve as a small SVG, both axes logarithmic."""

import csv
import math

WIDTH, HEIGHT, MARGIN = 640, 360, 48
MOST_POINTS = 400


def ticks(low, high):
    """1, 2, 5, 10, … between two positive numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0 ** power for power in powers for digit in (1, 2, 5) if low <= digit * 10.0 ** power <= high]


def position(value, low, high, start, end):
    return start + (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) * (end - start)


def write(log, target):
    """Draws the columns `tokens` and `loss` of a log; fewer than two rows make no curve."""
    rows = [(int(row["tokens"]), float(row["loss"])) for row in csv.DictReader(log.open())]
    rows = rows[::max(1, len(rows) // MOST_POINTS)]
    if len(rows) < 2:
        return
    (x0, x1), (y0, y1) = ((min(column), max(column)) for column in zip(*rows))
    across = lambda value: position(value, x0, x1, MARGIN, WIDTH - 12)
    down = lambda value: position(value, y0, y1, HEIGHT - MARGIN, 12)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'font-family="sans-serif" font-size="11" fill="#444">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for value in ticks(x0, x1):
        x, y = across(value), HEIGHT - MARGIN
        out.append(f'<path d="M{x:.1f} 12V{y}" stroke="#ddd"/>'
                   f'<text x="{x:.1f}" y="{y + 16}" text-anchor="middle">{value / 1e6:g}</text>')
    for value in ticks(y0, y1):
        y = down(value)
        out.append(f'<path d="M{MARGIN} {y:.1f}H{WIDTH - 12}" stroke="#ddd"/>'
                   f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in rows)
    turned = f'transform="rotate(-90 12 {HEIGHT / 2})"'
    out += [f'<polyline points="{points}" fill="none" stroke="#1f6fb4" stroke-width="1.5"/>',
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">million tokens</text>',
            f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" {turned}>loss per answer token</text>', "</svg>"]
    target.write_text("\n".join(out) + "\n")
