"""ExecuTorch: ``.pte`` files with the XNNPACK delegate."""
