"""Deep residual networks trained in float32 and in bfloat16."""
