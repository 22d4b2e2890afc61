mod files;
mod model;
mod naming;
mod scene;
