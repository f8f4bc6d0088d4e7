"""What a run costs, before machines are booked."""
