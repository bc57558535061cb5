"""A server under mixed load with injected faults, for as long as one likes; see `__main__`.

`ledger` keeps the books, `stage` runs the loads and stops them for inspections, `health` inspects,
and the other modules are the loads.
"""
