"""Operations on the pixels of views."""
