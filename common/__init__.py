"""What every level may use: weights, files, device, arithmetic coding; it imports none of ours."""
