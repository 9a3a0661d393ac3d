"""Pipeline from a compile request to a run folder: recipe, plan, runner and stages."""
