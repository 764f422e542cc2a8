"""Reading clips in a process of its own, by time stamps and in segments."""
