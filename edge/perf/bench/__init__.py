"""What `edge bench` runs, measures, judges and tells."""
