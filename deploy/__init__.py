"""What runs the relay beside the chart: the stack without Docker, and the builder of the dashboards."""
