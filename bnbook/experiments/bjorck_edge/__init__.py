"""The largest rate that trains, against depth, growth and what the start predicts."""
