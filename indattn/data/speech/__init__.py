"""Speech with the times at which its words are said."""
