"""What the fuzz calls, and the valid and invalid inputs that it draws."""
