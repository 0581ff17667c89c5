//! `skeg create`: the story of how a container comes to life.
