/* The product of all members and groups, piece by piece: included where part_of, multiply and scratch_of are. */
static void multiply_piece(const Product *p, idx piece, idx cuts, const Scratch *at) {
    const idx which = piece / cuts, cut = piece % cuts, rows = ceiling(p->M, TALL), columns = ceiling(p->N, WIDE);
    Part part = part_of(p, which / p->G, which % p->G);
    if (rows >= columns)
        part.m = least(rows * cut / cuts * TALL, p->M), part.M = least(rows * (cut + 1) / cuts * TALL, p->M);
    else
        part.n = least(columns * cut / cuts * WIDE, p->N), part.N = least(columns * (cut + 1) / cuts * WIDE, p->N);
    multiply(&part, at);
}

void product(const Product *p) {
    const double work = (double)p->R * p->G * p->S * p->M * p->N * p->K;
    const idx threads = work < WORTH ? 1 : omp_get_max_threads(), cuts = cuts_of(p, threads), pieces = p->R * p->G * cuts;
#pragma omp parallel if (threads > 1)
    {
        void *memory;
        const Scratch at = scratch_of(p, &memory);
#pragma omp for schedule(static)
        for (idx piece = 0; piece < pieces; piece++) multiply_piece(p, piece, cuts, &at);
        free(memory);
    }
}
