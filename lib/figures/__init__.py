"""Tables in, pictures out: the only place that knows colours, markers and labels."""
