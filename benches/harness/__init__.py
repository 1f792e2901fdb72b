"""What `make bench` runs: servers, workloads, rows, and the report. See CONTRIBUTING.md."""
