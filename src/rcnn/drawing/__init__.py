"""What people look at: pictures of detections, the curves of a run, the page of a report."""
