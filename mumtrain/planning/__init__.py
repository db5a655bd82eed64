"""What `mumtrain plan` is made of: expectations, a look at some batches, and the words for both."""
