"""Dead weights: what of a model cannot reach its outputs, or reaches them only as a constant, is proven and removed.

scan.py        a first look at every matrix: zero slices and equal rows, at the speed of memory
products.py    layers that multiply data by constants, all as one four-dimensional view
spans.py       what is proven of values, channel by channel: intervals, constants, zeros
functions.py   the functions of one variable that spans go through
movement.py    where the slices of a moved value come from
labels.py      which channels are surely equal
gains.py       how far a channel can move a result, where nothing bounds it absolutely
liveness.py    which channels something reads
plan.py        edits that move a channel's share elsewhere: into a bias, another channel, or under a stated bound
remove.py      the edits and the removal, by the dependency engine of `passes/prune`
report.py      the proof of each removal as a row of the report
dead_weights.py   the pass
"""
