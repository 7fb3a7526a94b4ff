"""What orders are made of: products with a likely substitute, people, places, notes, sentences."""

#: (product, what a shopper offers when it is sold out)
PRODUCTS: tuple[tuple[str, str], ...] = (
    ("Organic Bananas, bunch", "Bananas, bunch"),
    ("Honeycrisp Apples, 3 lb bag", "Fuji Apples, 3 lb bag"),
    ("Baby Spinach, 10 oz", "Spring Mix, 10 oz"),
    ("Roma Tomatoes, 1 lb", "Vine Tomatoes, 1 lb"),
    ("Yellow Onions, 3 lb bag", "Sweet Onions, each"),
    ("Hass Avocados, 4 ct", "Hass Avocado, each"),
    ("Russet Potatoes, 5 lb bag", "Gold Potatoes, 5 lb bag"),
    ("Garlic, 3 ct", "Peeled Garlic, 6 oz"),
    ("Fresh Cilantro, bunch", "Italian Parsley, bunch"),
    ("Seedless Red Grapes, 2 lb", "Seedless Green Grapes, 2 lb"),
    ("Whole Milk, 1 gal", "2% Reduced Fat Milk, 1 gal"),
    ("Unsweetened Oat Milk, 64 fl oz", "Original Almond Milk, 64 fl oz"),
    ("Large Brown Eggs, 12 ct", "Large White Eggs, 12 ct"),
    ("Salted Butter, 1 lb", "Unsalted Butter, 1 lb"),
    ("Plain Greek Yogurt, 32 oz", "Plain Skyr, 24 oz"),
    ("Sharp Cheddar, 8 oz", "Medium Cheddar, 8 oz"),
    ("Shredded Mozzarella, 16 oz", "Whole Milk Mozzarella, 16 oz"),
    ("Boneless Chicken Thighs, 1.5 lb", "Boneless Chicken Breast, 1.5 lb"),
    ("Ground Beef 90/10, 1 lb", "Ground Beef 85/15, 1 lb"),
    ("Atlantic Salmon Fillet, 12 oz", "Coho Salmon Fillet, 12 oz"),
    ("Smoked Turkey Slices, 9 oz", "Honey Ham Slices, 9 oz"),
    ("Extra Firm Tofu, 14 oz", "Firm Tofu, 14 oz"),
    ("Sourdough Loaf, 24 oz", "Country White Loaf, 24 oz"),
    ("Whole Wheat Tortillas, 10 ct", "Flour Tortillas, 10 ct"),
    ("Long Grain Rice, 2 lb", "Jasmine Rice, 2 lb"),
    ("Spaghetti, 16 oz", "Linguine, 16 oz"),
    ("Marinara Sauce, 24 oz", "Tomato Basil Sauce, 24 oz"),
    ("Black Beans, 15 oz can", "Pinto Beans, 15 oz can"),
    ("Chicken Broth, 32 fl oz", "Vegetable Broth, 32 fl oz"),
    ("Extra Virgin Olive Oil, 500 ml", "Extra Virgin Olive Oil, 750 ml"),
    ("Creamy Peanut Butter, 16 oz", "Crunchy Peanut Butter, 16 oz"),
    ("Rolled Oats, 42 oz", "Quick Oats, 42 oz"),
    ("Medium Roast Coffee, 12 oz", "Dark Roast Coffee, 12 oz"),
    ("Sparkling Water, lime, 8 ct", "Sparkling Water, lemon, 8 ct"),
    ("Orange Juice, no pulp, 52 fl oz", "Orange Juice, some pulp, 52 fl oz"),
    ("Sea Salt Potato Chips, 8 oz", "Kettle Potato Chips, 8 oz"),
    ("Vanilla Ice Cream, 48 fl oz", "French Vanilla Ice Cream, 48 fl oz"),
    ("Frozen Blueberries, 16 oz", "Frozen Mixed Berries, 16 oz"),
    ("Paper Towels, 6 rolls", "Paper Towels, 8 rolls"),
    ("Dish Soap, 19 fl oz", "Dish Soap, free & clear, 24 fl oz"),
)

SHOPPERS = ("Maya", "Jordan", "Luis", "Priya", "Tom", "Aisha", "Daniel", "Mei", "Renée", "Kofi", "Søren", "Nadia")

#: (street, city, state, postal code, latitude, longitude)
PLACES: tuple[tuple[str, str, str, str, float, float], ...] = (
    ("Maple Avenue", "Evanston", "IL", "60201", 42.0459, -87.6877),
    ("Valencia Street", "San Francisco", "CA", "94110", 37.7599, -122.4214),
    ("Congress Street", "Portland", "ME", "04101", 43.6573, -70.2589),
    ("Burnet Road", "Austin", "TX", "78756", 30.3227, -97.7393),
    ("Rue Cartier", "Québec", "QC", "G1R 2S5", 46.8052, -71.2227),
    ("Peachtree Street NE", "Atlanta", "GA", "30309", 33.7866, -84.3838),
    ("Queen Street W", "Toronto", "ON", "M6J 1H1", 43.6442, -79.4167),
)

NOTES = (
    "Please leave it at the front door.",
    "Ring the bell twice, the first one is often missed.",
    "Gate code 4417, then the second door on the left.",
    "The dog is friendly. Please close the gate behind you.",
    "Leave with the concierge in the lobby.",
    "Baby asleep: please text instead of ringing.",
    "Side entrance, past the blue bins.",
    "Call when you arrive and I will come down.",
)

GREETINGS = (
    "Hi, this is {shopper}. I'm starting on your order now!",
    "Hello! I just got to the store and will begin shopping.",
    "Good day! {shopper} here, I'll be picking your groceries today.",
)

#: Short conversations in the aisles: who says what, in turn.
CHATTER: tuple[tuple[tuple[str, str], ...], ...] = (
    (("shopper", "Would you like the bananas green or ripe?"), ("customer", "A bit green, please 🙂")),
    (
        ("customer", "Could you check the date on the milk?"),
        ("shopper", "Sure, this one is good for another nine days."),
        ("customer", "Great, thanks!"),
    ),
    (
        ("shopper", "It's quite busy in here, I may be ten minutes longer."),
        ("customer", "No problem at all, take your time."),
    ),
    (("customer", "Can you add paper bags instead of plastic?"), ("shopper", "Will do 👍")),
    (
        ("shopper", "The bakery has fresh sourdough coming out in 5 minutes. Shall I wait?"),
        ("customer", "Yes please, that would be lovely."),
        ("shopper", "Waiting then!"),
        ("customer", "You're the best"),
    ),
    (("customer", "I forgot to say: no onions with soft spots please"), ("shopper", "I'll pick through them.")),
    (
        ("shopper", "Only small avocados left today, are four of them okay?"),
        ("customer", "Four small ones are fine."),
    ),
)

#: With {product} and {substitute}.
OFFERS = (
    "They're out of {product}. Would {substitute} work?",
    "No luck with {product}, I found {substitute} instead.",
    "{product} is sold out. I picked {substitute}, let me know if that's okay.",
)
APPROVALS = ("That works, thank you!", "Yes, {substitute} is fine.", "Perfect 👌", "Sure, go ahead.")
REJECTIONS = ("No thanks, please refund it.", "I'd rather skip that one.", "Not {substitute}, please. Just refund.")
SOLD_OUT = ("Sorry, no {product} today, I'll refund it.", "{product} is gone and there is nothing similar.")
ON_THE_WAY = ("I'm on my way!", "Leaving the store now, see you soon.", "All packed, about 20 minutes out.")
DRIVING = (
    (("customer", "Do you need the gate code?"), ("shopper", "Got it from the notes, thanks!")),
    (("shopper", "A little traffic on the bridge, sorry."), ("customer", "Thanks for telling me.")),
    (("customer", "I'm in the back garden, just leave it at the door"), ("shopper", "Will do.")),
)
ARRIVALS = ("Your order is at the door. Enjoy!", "I'm outside.", "Delivered — have a great evening!")
PICKUP_READY = ("Your order is ready at the pickup desk.", "All packed: bay 4, just pop the trunk.")
