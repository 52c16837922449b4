"""Reading data: where rows come from, whether they can be used, how they are split and scaled.

`reading.read_source` gives a checked `Source`, `splitting.split` deals its rows into train,
validation and test, `scaling.fit_scaling` learns the scaling from the training rows, and
`prepared` reads back what the stage `prepare` wrote. To add a source, write a module with one
function and name it in `reading.SOURCES`.
"""
