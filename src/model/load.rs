//! From the files of a base to a [`super::BaseModel`].
