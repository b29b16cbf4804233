"""What tests share: small random checkpoints, a plain prompt search, and the recorder of golden
streams.
"""
