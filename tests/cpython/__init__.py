"""CPython's own asyncio tests, run against aioxide's Task, Future and loop."""
