"""When each word of a transcript is said: from scores to times, and how sure the times are."""
