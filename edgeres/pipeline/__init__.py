"""From a request to a finished run: recipe, plan, runner, run folder, and the stages."""
