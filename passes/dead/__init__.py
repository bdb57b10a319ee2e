"""Dead weights: what of a model cannot reach its outputs, or reaches them only as a constant, is proven and removed.

rows.py        rows of tables that no index can reach
scan.py        a first look at every matrix: zero slices, equal rows and multiples, at the speed of memory
products.py    layers that multiply data by constants, all as one four-dimensional view; tables that are looked up
recurrence.py  lstm, gru and rnn: their matrices, and which hidden units are zero or equal all the time
layers.py      all of these, as one round sees them
spans.py       what is proven of values, channel by channel: intervals, constants, zeros
functions.py   the functions of one variable that spans go through
movement.py    where the slices of a moved value come from
twins.py       channels that are a power of two times others: the arithmetic
labels.py      which channels surely are
gains.py       how far a channel can move a result, where nothing bounds it absolutely
near_twins.py  which channels are almost a number times another
liveness.py    which channels something reads
plan.py        edits that move a channel's share elsewhere: into a bias or another channel
bounded.py     which may go under a stated bound
remove.py      the edits and the removal, by the dependency engine of `passes/prune`
report.py      the proof of each removal as a row of the report
dead_weights.py   the pass
"""
