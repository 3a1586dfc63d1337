"""Measures this project beside what people use instead: script/bench."""
