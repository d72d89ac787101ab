"""The table as people read it."""


def markdown(rows):
    lines = ["| row | asked | measured | pairs from - to | A | B |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['row']} | | not measured: {row['failed'].replace('|', '/')} | | | |")
            continue
        asked = f"≥ {row['at_least']}" if "at_least" in row else f"≤ {row['at_most']}"
        side = lambda name: f"{row[name]['median']:g} {row['unit']}"
        lines.append(f"| {row['row']} | {asked} | {row['ratio']:.3f}{'' if row['met'] else ' (short)'} "
                     f"| {row['pairs'][0]:.3f} - {row['pairs'][1]:.3f} | {side('a')} | {side('b')} |")
    return "\n".join(lines) + "\n"
