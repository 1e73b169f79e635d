"""`edge bench` and `edge tune`: measurements of the pipeline that serves."""
