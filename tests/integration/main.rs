mod hub;
mod text;
