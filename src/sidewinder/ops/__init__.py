"""Operations, one a file: a plain reference, the fast forms, and one public function that chooses between them."""
