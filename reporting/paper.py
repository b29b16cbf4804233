"""The paper's recorded figures beside those of a run at the paper's size.

for line in beside_paper("PICS", "CLIC2021", 512, summary):
    print(line)

Lei et al. 2023, arXiv 2307.01944: the records beside their code's results. FID and KID are against
the resized training set, 1 - CLIP cosine is of the encoder's own CLIP (ViT-H/14), LPIPS of AlexNet.
"""

SHORT_SIDE = 512  # pixels, of the paper's images
COLUMNS = {  # of a run's summary: what the paper's figure is called
    "bpp": "bits per pixel",
    "clip": "1 - CLIP cosine",
    "lpips_alex": "LPIPS",
    "fid_folder": "FID",
    "kid_folder": "KID",
}
# (method, data set): in the order of COLUMNS
FIGURES = {
    ("PIC", "CLIC2021"): (0.00282, 0.2596, 0.7847, 246.34, 0.01706),
    ("PICS", "CLIC2021"): (0.01509, 0.2120, 0.6233, 266.83, 0.03414),
    ("PIC", "DIV2K"): (0.0027, 0.2736, 0.7224, 173.40, 0.00223),
    ("PICS", "DIV2K"): (0.0172, 0.2443, 0.67, 182.07, 0.00254),
}


def beside_paper(method: str, dataset: str, short_side: int, summary: dict) -> list[str]:
    """Return lines that compare a run's summary with the paper, for people.

    Empty if the paper recorded no such run: its images have a short side of 512 pixels.
    """
    recorded = FIGURES.get((method, dataset))
    if recorded is None or short_side != SHORT_SIDE or "mean" not in summary:
        return []
    own = dict(summary["mean"])
    for name, found in summary["set"].items():
        own[name] = found["value"]
    if "clip" in own:
        own["clip"] = 1 - own["clip"]
    title = f"{method} on {dataset}"
    lines = [f"{title:30}the paper   this run"]
    for (column, title), figure in zip(COLUMNS.items(), recorded, strict=True):
        here = f"{own[column]:.5g}" if column in own else "not measured"
        lines.append(f"  {title:28}{figure:<12.5g}{here}")
    return lines
