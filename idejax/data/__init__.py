"""Where photographs come from: folders of people, data sets, streams of batches."""
