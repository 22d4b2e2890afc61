mod files;
mod model;
mod scene;
