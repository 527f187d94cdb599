"""Looking at a figure: whether what it shows can be seen, and is explained."""

import numpy as np
from matplotlib.figure import Figure


def explanations(figure: Figure) -> list[str]:
    """Return what the legends say, once the figure has turned out to be readable.

    Each line is explained in a legend and ends within its axes, and what is drawn there takes more
    than two fifths of their width and height.
    """
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 8  # inches: in a wider one, text is too small on a phone
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    explained = [text.get_text() for legend in legends for text in legend.get_texts()]
    for axes in figure.axes:
        assert {*axes.get_legend_handles_labels()[1]} <= {*explained}
        lines = [line for line in axes.lines if line.get_transform() == axes.transData]
        shapes = [np.column_stack(line.get_data(orig=False)) for line in lines]
        shapes += [bar.get_corners() for bar in axes.patches]
        whole = axes.bbox
        places = [(axes.transData.transform(each) - whole.p0) / whole.size for each in shapes]
        for place in places:
            assert ((place[-1] >= 0) & (place[-1] <= 1)).all()
        points = np.vstack(places)
        seen = points[((points >= 0) & (points <= 1)).all(axis=1)]
        assert (np.ptp(seen, axis=0) > 0.4).all()
        assert axes.get_ylabel()
    return explained
