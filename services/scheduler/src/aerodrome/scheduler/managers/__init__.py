"""What the scheduler does: learn schedules, lead, fire, answer."""
