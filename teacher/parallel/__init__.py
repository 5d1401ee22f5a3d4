"""One teacher on several processes: which rank holds what, and how their parts become one answer."""
